//! `kubectl alkhub` without a cluster. What it does with one is covered by the end-to-end run
//! (docs/operations/kubectl.md).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

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

/// A `kubectl` whose Hub is even until the operator answers the order, then uneven, and then even again.
const UNEVEN_AFTER_THE_ORDER: &str = r#"#!/bin/sh
if test "$1" = annotate; then
    echo "${4#*=}" > order
    exit
fi
echo >> looks
case $(wc -l < looks) in
1 | 2) order=before balance='{"total": 20, "mean": 10, "max": 10, "ratio": 1}' ;;
3) order=$(cat order) balance='{"total": 30, "mean": 15, "max": 20, "ratio": 1.33}' ;;
*) order=$(cat order) balance='{"total": 30, "mean": 15, "max": 15, "ratio": 1}' ;;
esac
echo '{"metadata": {"name": "demo"}, "status": {"rebalanceOrder": "'"$order"'", "balance": '"$balance"'}}'
"#;

/// A `kubectl` whose pod `demo-a` is empty and drains until the operator answers the order, then is full and does not,
/// and then is empty and drains again. With a file `silent` no operator answers.
const FULL_AFTER_THE_ORDER: &str = r#"#!/bin/sh
case "$1 $4" in
"annotate "*)
    echo "${4#*=}" > order
    exit
    ;;
"get pod")
    echo '{"metadata": {"name": "demo-a", "labels": {"app.kubernetes.io/instance": "demo",
        "app.kubernetes.io/component": "hub", "app.kubernetes.io/managed-by": "alkhub-operator"}}}'
    exit
    ;;
esac
echo >> looks
looks=$(wc -l < looks)
test -e silent && looks=1
case $looks in
1 | 2) order=before draining=true connections=0 ;;
3) order=$(cat order) draining=false connections=5 ;;
*) order=$(cat order) draining=true connections=0 ;;
esac
echo '{"metadata": {"name": "demo"}, "status": {"hubPods": [{"name": "demo-b", "ready": true}, {"name": "demo-a",
    "ready": true, "draining": '$draining', "connections": '$connections', "inFlight": 0, "reconnecting": 0,
    "drainOrder": "'"$order"'"}]}}'
"#;

/// A world whose `kubectl` is this script.
fn with(kubectl: &str) -> World {
    let mut world = World::new();
    let kubectl = world.write("kubectl", kubectl);
    std::fs::set_permissions(&kubectl, Permissions::from_mode(0o755)).expect("ours");
    world.set("PATH", &format!("{}:/usr/bin:/bin", world.path().display()));
    world
}

/// What a command wrote to standard output and to standard error.
fn written(done: &Output) -> [String; 2] {
    [&done.stdout, &done.stderr].map(|written| String::from_utf8_lossy(written).into_owned())
}

#[test]
fn figures_from_before_an_order_to_rebalance_are_no_answer_to_it() {
    let world = with(UNEVEN_AFTER_THE_ORDER);

    let done = world.run(&["kubectl", "rebalance", "demo"]);

    let [said, noted] = written(&done);
    assert!(done.status.success(), "{done:?}");
    assert!(
        said.contains("is even: 30 connections") && said.lines().count() == 1,
        "{said}"
    );
    assert!(noted.contains("30 connections, 15 a pod, 20 on the fullest"), "{noted}");
}

#[test]
fn figures_from_before_an_order_to_drain_are_no_answer_to_it() {
    let world = with(FULL_AFTER_THE_ORDER);

    let done = world.run(&["kubectl", "drain", "demo-a"]);

    let [said, noted] = written(&done);
    assert!(done.status.success(), "{done:?}");
    assert!(said.contains("pod demo-a is empty"), "{said}");
    assert!(
        noted.contains("the operator has not answered yet") && noted.contains("does not drain yet: 5 connections"),
        "{noted}"
    );
}

#[test]
fn an_order_that_no_operator_answers_fails_and_says_where_to_look() {
    let world = with(FULL_AFTER_THE_ORDER);
    world.write("silent", "");

    let late = world.run(&["kubectl", "drain", "demo-a", "--timeout", "2s"]);

    let [_, said] = written(&late);
    assert_eq!(late.status.code(), Some(8), "{late:?}");
    for part in ["not done after 2s", "alkhub-operator", "undrain demo-a"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
