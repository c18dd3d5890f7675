//! `alkhub selftest` against a development hub.

use crate::fixture::{Dev, World};

#[test]
fn it_makes_routed_calls_and_leaves_no_operation() {
    let dev = Dev::start();

    let said = dev.world.ok(&["selftest", "--calls", "3"]);
    let report = dev.world.json(&["selftest", "--calls", "2"]);

    assert!(said.starts_with("selftest: 3 routed calls answered"), "{said}");
    assert_eq!(report["calls"], 2);
    assert!(report["slowestMs"].is_u64(), "{report}");
    assert_eq!(dev.world.json(&["operations"]), serde_json::json!([]));
    let calls = crate::fixture::wait("five records", || {
        let calls = dev.world.json(&["calls", "--operation", "selftest.echo"]);
        let five = calls.as_array().is_some_and(|calls| calls.len() == 5);
        five.then_some(calls.clone()).ok_or_else(|| calls.to_string())
    });
    assert!(
        calls
            .as_array()
            .expect("a list")
            .iter()
            .all(|c| c["status"] == "completed")
    );
}

#[test]
fn it_needs_no_more_than_the_key_that_help_names() {
    let dev = Dev::start();
    let world = &dev.world;
    let key = |more: &[&str]| {
        let key = world.ok(&[&["keys", "create", "selftest", "--spoke", "selftest"], more].concat());
        key.trim().to_owned()
    };
    let enough = key(&["--scope", "call:selftest.echo"]);
    let little = key(&[]);

    world.ok(&["selftest", "--calls", "1", "--token", &enough]);
    let line = world.fails(4, &["selftest", "--calls", "1", "--token", &little]);

    assert!(line.contains("call:selftest.echo"), "{line}");
}

#[test]
fn it_gives_up_when_no_hub_answers_in_time() {
    let world = World::new();
    let nowhere = ["--url", "http://127.0.0.1:1", "--token", "x"];

    let line = world.fails(3, &[&["selftest", "--wait", "1s"][..], &nowhere].concat());

    for part in ["http://127.0.0.1:1", "refused", "--url"] {
        assert!(line.to_lowercase().contains(part), "{line}");
    }
}
