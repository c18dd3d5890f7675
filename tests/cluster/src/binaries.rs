//! Builds Kubernetes, etcd, helm and CoreDNS from their Go modules: one binary, a symbolic link for each name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::say;
use crate::wait::Clock;
use crate::work::hex;

/// The Go module beside this crate.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/go");
/// The version that the binary reports: charts compare it with their `kubeVersion`.
const VERSION: &str = "1.35.4";
/// The names that the binary answers to.
const PROGRAMS: [&str; 9] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
    "etcd",
    "helm",
    "coredns",
];

/// Builds into `folder`, unless its contents were built from the same sources.
pub(crate) fn ensure(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = fs::canonicalize(folder)?;
    let mark = folder.join("built-from");
    let sources = sources(MODULE, &link_flags())?;
    if fs::read_to_string(&mark).is_ok_and(|built| built == sources) && folder.join("kube").exists() {
        return Ok(folder);
    }
    compile(&folder)?;
    for program in PROGRAMS {
        let link = folder.join(program);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link)?;
        }
        symlink("kube", &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    fs::write(&mark, sources)?;
    Ok(folder)
}

/// A name for the sources that a module is built from.
pub(crate) fn sources(module: &str, link_flags: &str) -> Result<String> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum", "main.go"] {
        let path = Path::new(module).join(file);
        // A module that only pins versions has no program.
        if file != "main.go" || path.exists() {
            hash.update(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    hash.update(link_flags);
    Ok(hex(&hash.finalize()))
}

fn compile(folder: &Path) -> Result<()> {
    let clock = Clock::start();
    say!("building Kubernetes {VERSION}: 8 minutes on 2 cores the first time, one when Go's build cache is warm");
    go_build(MODULE, ".", &link_flags(), &folder.join("kube"))?;
    say!("built in {}", clock.seconds());
    Ok(())
}

/// Builds one package of a module into the file `out`, which is replaced at once.
pub(crate) fn go_build(module: &str, package: &str, link_flags: &str, out: &Path) -> Result<()> {
    let fresh = out.with_extension("new");
    let go = go()?;
    let status = Command::new("nice")
        .args(["-n", "5", &go, "build", "-trimpath", "-buildvcs=false"])
        .args(["-ldflags", link_flags, "-o"])
        .arg(&fresh)
        .arg(package)
        .current_dir(module)
        .status()
        .context("cannot start `nice`")?;
    if !status.success() {
        bail!("the Go build failed ({status}): what it said stands above");
    }
    fs::rename(&fresh, out).with_context(|| format!("cannot make {}", out.display()))
}

/// Go's linker: small, and with the version that a release would have.
fn link_flags() -> String {
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    let (major, minor) = ("1", "35");
    let mut flags = "-s -w".to_owned();
    flags += &set("gitVersion", &format!("v{VERSION}"));
    flags += &(set("gitMajor", major) + &set("gitMinor", minor));
    flags + &set("gitTreeState", "clean") + &set("gitCommit", "alkhub") + &set("buildDate", "1970-01-01T00:00:00Z")
}

/// The Go program.
pub(crate) fn go() -> Result<String> {
    let known = [
        "/usr/local/go/bin/go",
        "/usr/lib/go/bin/go",
        "/usr/local/bin/go",
        "/usr/bin/go",
    ];
    let found = known
        .into_iter()
        .find(|path| Path::new(path).exists())
        .map(str::to_owned);
    found.context("Go is missing: install Go 1.25 or newer in /usr/local/go")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_of_the_version_that_the_binary_says() {
        let module = fs::read_to_string(Path::new(MODULE).join("go.mod")).expect("go.mod");

        assert!(module.contains(&format!("k8s.io/kubernetes v{VERSION}")));
    }
}
