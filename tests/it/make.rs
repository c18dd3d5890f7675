//! The targets of the Makefile on a machine where none of our dependencies is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::Result;

/// Targets that people run directly and that need Debian packages.
const WANTING: &[&str] = &[
    "dev",
    "test",
    "cluster",
    "e2e",
    "harness",
    "containers",
    "servers",
    "images",
    "charts",
    "alerts",
    "bench",
    "bench-rebalance",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("below the workspace")
}

/// What `make TARGET` would run, without running it.
fn dry(target: &str) -> Result<String> {
    let mut make = Command::new("make");
    // This test may itself be run by make.
    for inherited in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"] {
        make.env_remove(inherited);
    }
    let output = make.args(["-n", target]).current_dir(root()).output()?;
    anyhow::ensure!(output.status.success(), "make -n {target}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// `deploy/deps.sh` on a machine where dpkg knows no packages and the user is not root.
fn deps_of_a_bare_machine(what: &str) -> Result<Output> {
    let tools = tempfile::tempdir()?;
    for (name, script) in [("dpkg-query", "#!/bin/sh\nexit 1\n"), ("id", "#!/bin/sh\necho 1000\n")] {
        let path = tools.path().join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let path = format!(
        "{}:{}",
        tools.path().display(),
        std::env::var_os("PATH").unwrap_or_default().display()
    );
    let mut deps = Command::new("deploy/deps.sh");
    Ok(deps.arg(what).env("PATH", path).current_dir(root()).output()?)
}

#[test]
fn a_target_that_needs_packages_installs_them_before_all_else() -> Result<()> {
    for target in WANTING {
        let recipe = dry(target)?;
        let first = recipe.lines().find(|line| !line.starts_with("deploy/steps.sh"));

        assert!(
            first.is_some_and(|line| line.starts_with("deploy/deps.sh ")),
            "make {target} begins with {first:?}"
        );
    }
    Ok(())
}

#[test]
fn who_may_not_install_is_told_every_package_that_a_cluster_needs() -> Result<()> {
    let output = deps_of_a_bare_machine("cluster")?;
    let said = String::from_utf8(output.stderr)?;

    assert!(!output.status.success(), "{said}");
    let lists = fs::read_to_string(root().join("tests/cluster/deps.txt"))?
        + &fs::read_to_string(root().join("deploy/deps.txt"))?;
    let plain = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.contains('|');
    for package in lists.lines().filter(plain) {
        assert!(said.contains(&format!(" {package}")), "{package} is not named: {said}");
    }
    Ok(())
}

#[test]
fn compose_gives_the_hub_the_time_that_its_end_may_take() -> Result<()> {
    let compose = fs::read_to_string(root().join("deploy/compose.yaml"))?;
    let given = compose.lines().find_map(|line| {
        line.trim()
            .strip_prefix("stop_grace_period: ")?
            .strip_suffix('s')?
            .parse()
            .ok()
    });
    let server = alkhub_config::HubConfig::default().server;

    let needed = server.drain_delay + server.drain_timeout + alkhub_config::drain::LIMIT;

    let given = given.map(std::time::Duration::from_secs);
    anyhow::ensure!(given > Some(needed), "{given:?} for an end of {needed:?}");
    Ok(())
}
