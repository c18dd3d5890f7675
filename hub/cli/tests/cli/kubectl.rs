//! `kubectl alkhub` where there is no cluster. What it does in one is walked in the end-to-end run
//! (docs/operations/kubectl.md).

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
