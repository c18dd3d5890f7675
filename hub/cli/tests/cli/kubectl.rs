//! `kubectl alkhub` without a cluster. What it does with one is covered by the end-to-end run
//! (docs/operations/kubectl.md).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::fixture::World;

#[test]
fn under_the_name_of_a_plugin_the_program_is_one() {
    let world = World::new();
    let plugin = world.path().join("kubectl-alkhub");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_alkhub"), &plugin).expect("linked");

    let help = Command::new(&plugin).arg("--help").output().expect("it runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    assert!(help.contains("Usage: kubectl alkhub <COMMAND>"), "{help}");
    let same = world.ok(&["kubectl", "drain", "--help"]);
    assert!(same.contains("kubectl alkhub drain demo-"), "{same}");
}

#[test]
fn what_cannot_work_is_said_before_the_cluster_is_asked() {
    let mut world = World::new();
    world.set("PATH", "/nowhere");

    for command in ["status", "top"] {
        let line = world.fails(1, &["kubectl", command]);
        assert!(line.contains("there is no `kubectl` on the PATH"), "{line}");
    }
    for line in [
        &["kubectl", "drain"][..],
        &["kubectl", "status", "demo", "--all-namespaces"],
        &["kubectl", "drain", "a", "--no-wait", "--timeout", "1m"],
        &["kubectl", "rebalance", "demo", "--timeout", "soon"],
    ] {
        let refused = world.run(line);
        assert_eq!(refused.status.code(), Some(2), "{line:?}: {refused:?}");
    }
}

/// A `kubectl` whose Hub is even before the order and just after it, then uneven, and then even again.
const UNEVEN_AFTER_THE_ORDER: &str = r#"#!/bin/sh
test "$1" = get || exit 0
echo >> looks
case $(wc -l < looks) in
1 | 2) balance='{"total": 20, "mean": 10, "max": 10, "ratio": 1}' ;;
3) balance='{"total": 30, "mean": 15, "max": 20, "ratio": 1.33}' ;;
*) balance='{"total": 30, "mean": 15, "max": 15, "ratio": 1}' ;;
esac
echo '{"metadata": {"name": "demo"}, "status": {"balance": '"$balance"'}}'
"#;

#[test]
fn figures_from_before_an_order_to_rebalance_are_no_answer_to_it() {
    let mut world = World::new();
    let kubectl = world.write("kubectl", UNEVEN_AFTER_THE_ORDER);
    std::fs::set_permissions(&kubectl, Permissions::from_mode(0o755)).expect("ours");
    world.set("PATH", &format!("{}:/usr/bin:/bin", world.path().display()));

    let done = world.run(&["kubectl", "rebalance", "demo"]);

    let (said, noted) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(done.status.success(), "{done:?}");
    assert!(
        said.contains("is even: 30 connections") && said.lines().count() == 1,
        "{said}"
    );
    assert!(noted.contains("30 connections, 15 a pod, 20 on the fullest"), "{noted}");
}
