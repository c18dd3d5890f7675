//! What must be present before anything starts: root, and Debian's packages.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Result, bail};
use nix::unistd::Uid;

/// The packages, as a file because the Makefile reads it too.
const PACKAGES: &str = include_str!("../deps.txt");

/// Programs of a cluster and the packages they come in.
pub(crate) const CLUSTER: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ethtool", "ethtool"),
    ("socat", "socat"),
    ("curl", "curl"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// Programs of a Docker engine and the packages they come in.
pub(crate) const DOCKER: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("curl", "curl"),
];

/// Programs that the test images are made of.
pub(crate) const IMAGES: &[(&str, &str)] = &[
    ("ldd", "libc-bin"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
    ("/usr/lib/postgresql/15/bin/psql", "postgresql-client-15"),
    ("/usr/bin/redis-server", "redis-server"),
    ("/usr/bin/redis-cli", "redis-tools"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// Prints the packages, one a line.
pub(crate) fn print() -> Result<()> {
    let packages: Vec<_> = packages().collect();
    Ok(writeln!(io::stdout(), "{}", packages.join("\n"))?)
}

/// Fails if a program is missing, and names the packages that contain it.
pub(crate) fn require(programs: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !found(program))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "programs are missing: `apt-get install --no-install-recommends {}`",
        missing.join(" ")
    )
}

/// Refuses anyone but root: namespaces with networks and mounts need it.
pub(crate) fn require_root() -> Result<()> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    bail!("this makes namespaces and mounts, so it must run as root: put `sudo` in front")
}

fn packages() -> impl Iterator<Item = &'static str> {
    PACKAGES
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn found(program: &str) -> bool {
    let folders = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    program.starts_with('/') && Path::new(program).exists()
        || folders
            .split(':')
            .any(|folder| Path::new(folder).join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_comes_in_a_listed_package() {
        for (program, package) in [CLUSTER, DOCKER, IMAGES].concat() {
            assert!(
                packages().any(|listed| listed == package),
                "{package} of {program} is not in deps.txt"
            );
        }
    }

    #[test]
    fn what_is_missing_is_named_by_its_package() {
        let refusal = require(&[("sh", "dash"), ("no-such-program", "no-such-package")]).expect_err("missing");

        assert!(refusal.to_string().ends_with("no-such-package`"), "{refusal}");
    }
}
