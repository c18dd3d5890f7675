//! A machine without PostgreSQL: `alkhub dev` and `make dev`'s script say what to install.
//!
//! Each command runs in a mount namespace of its own, in which the installed PostgreSQL is hidden.

use std::process::{Command, Output};

use alkhub_test_support::skip;

use crate::fixture::World;

/// Hides PostgreSQL, and dpkg's records of it, from the command that follows.
const HIDE: &str =
    "mount -t tmpfs none /usr/lib/postgresql && mount -t tmpfs none /var/lib/dpkg && exec \"$@\" </dev/null";

/// Runs a command where PostgreSQL is not installed. On a machine without namespaces the test is skipped with a
/// message, but never if `CI` is set.
fn without_postgres(command: &Command) -> Option<Output> {
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--mount", "sh", "-c", HIDE, "sh"]);
    let possible = Command::new("unshare")
        .args(unshare.get_args())
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible {
        skip("this machine has no mount namespaces");
        return None;
    }
    unshare.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        unshare.current_dir(folder);
    }
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    Some(unshare.envs(set).output().expect("unshare runs"))
}

#[test]
fn without_postgres_dev_names_the_package_in_one_line_and_leaves_nothing() {
    let world = World::new();
    let data = world.data().display().to_string();
    let command = world.command(&["dev", "--data", &data, "--listen", "127.0.0.1:0"]);

    let Some(output) = without_postgres(&command) else {
        return;
    };

    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.starts_with("alkhub: ") && said.contains("apt-get install postgresql"),
        "{said}"
    );
    assert!(!world.data().exists(), "no folder is left behind");
}

#[test]
fn without_postgres_and_not_root_make_dev_names_the_package() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: in a namespace of ours everybody is root, and the script would install");
        return;
    }
    // Another user must be able to read the script.
    let world = World::new();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/deps.sh");
    std::fs::create_dir(world.path().join("deploy")).expect("ours");
    std::fs::copy(script, world.path().join("deploy/deps.sh")).expect("copied");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--clear-groups"])
        .args(["bash", "deploy/deps.sh", "postgresql"])
        .current_dir(world.path());

    let Some(output) = without_postgres(&command) else {
        return;
    };

    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("sudo apt-get install --no-install-recommends postgresql"),
        "{said}"
    );
}
