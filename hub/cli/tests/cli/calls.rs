//! Calls with a key that may do nothing else, hubs that do not answer, and the list of calls as it is followed.

use std::net::TcpListener;
use std::time::Duration;

use alkhub_test_support::Port;
use tokio::time::Instant;

use crate::fixture::{Dev, World, wait};

/// The echo of the self test, as it stands in lines.
const ECHO: &str = "selftest.echo";

/// Makes so many calls, one after the other.
fn made(world: &World, calls: usize) {
    world.ok(&["selftest", "--calls", &calls.to_string()]);
    wait("all of them to be listed", || {
        let listed = world.json(&["calls", "--limit", "1000", "--operation", ECHO]);
        let count = listed.as_array().map_or(0, Vec::len);
        if count > 0 && count.is_multiple_of(calls) {
            Ok(())
        } else {
            Err(count.to_string())
        }
    });
}

#[test]
fn a_key_that_may_only_call_gets_every_item_of_a_subscription() {
    let dev = Dev::start();
    let world = &dev.world;
    let any = world.write("any.json", "true");
    let _stream = dev.offer(&["text.count", "--kind", "subscription", "--", "seq", "1000"]);
    let echo = [
        "text.lines",
        "--kind",
        "subscription",
        "--spoke",
        "other",
        "--output-schema",
        &any,
    ];
    let _other = dev.offer(&[&echo[..], &["--", "cat"]].concat());
    let key = world.ok(&["keys", "create", "caller", "--scope", "call:*"]);
    let call = |arguments: &[&str]| {
        let given = ["--token", key.trim(), "--url", &dev.url];
        world.ok(&[&["call"], arguments, &given].concat())
    };
    let counted: String = (1..=1000).map(|n| format!("{n}\n")).collect();

    assert_eq!(call(&["text.count"]), counted);
    assert_eq!(call(&["text.count", "--target", "text"]), counted);
    assert_eq!(
        call(&["text.lines", "\"{\\\"n\\\": 1.50}\\n2\"", "--output", "json"]),
        "{\"n\":1.50}\n2\n"
    );
    let line = world.fails(5, &["call", "text.count", "--target", "other"]);
    assert!(line.contains("NO_PROVIDER"), "{line}");
}

#[test]
fn the_items_before_an_error_are_printed() {
    let dev = Dev::start();
    let script = "echo one; echo two; exit 3";
    let _stream = dev.offer(&["text.breaks", "--kind", "subscription", "--", "sh", "-c", script]);

    let broken = dev.world.run(&["call", "text.breaks"]);

    assert_eq!(broken.status.code(), Some(7), "{broken:?}");
    assert_eq!(String::from_utf8_lossy(&broken.stdout), "one\ntwo\n");
}

#[test]
fn a_hub_that_does_not_answer_is_given_up_at_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("bound"));
    let begin = Instant::now();

    let line = World::new().fails(8, &["call", "a.b", "--timeout", "2", "--url", &url, "--token", "x"]);

    assert!(line.contains("no answer within 2s"), "{line}");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}

#[test]
fn who_follows_calls_is_told_of_each_new_one_once_and_of_no_old_one() {
    let dev = Dev::start();
    made(&dev.world, 150);
    let mut dev = Dev::start_in(dev.stop(), &[]);
    let _fails = dev.offer(&["fails.run", "--", "false"]);
    let mut follow = dev
        .world
        .start(&["calls", "--follow", "--limit", "5", "--output", "json"]);
    follow.says(ECHO);
    let failed = ["calls", "--follow", "--status", "failed", "--output", "json"];
    let mut failed = dev.world.start(&failed);

    made(&dev.world, 150);
    dev.world.fails(7, &["call", "fails.run"]);

    dev.program.notes("fails.run");
    let told = dev.program.err();
    assert_eq!(told.matches(ECHO).count(), 150, "each new one once: {told}");
    let said = follow.says("fails.run");
    assert_eq!(
        said.matches(ECHO).count(),
        155,
        "the last five, and each new one once: {said}"
    );
    assert_eq!(failed.says("fails.run").lines().count(), 1);
    assert_eq!(follow.interrupt().code(), Some(130));
    assert_eq!(failed.interrupt().code(), Some(130));
}

#[test]
fn who_follows_calls_is_told_of_new_ones_after_the_hub_was_away() {
    let port = Port::free();
    let listen = format!("127.0.0.1:{port}");
    let dev = Dev::start_at(World::new(), &listen, &[]);
    made(&dev.world, 3);
    let mut follow = dev
        .world
        .start(&["calls", "--follow", "--limit", "5", "--output", "json"]);
    follow.says(ECHO);

    let world = dev.stop();
    follow.notes("it is asked again");
    let dev = Dev::start_at(world, &listen, &[]);
    let _fails = dev.offer(&["fails.run", "--", "false"]);
    dev.world.fails(7, &["call", "fails.run"]);

    let said = follow.says("fails.run");
    assert_eq!(said.matches("fails.run").count(), 1, "{said}");
    assert_eq!(said.matches(ECHO).count(), 3, "none of before is shown again: {said}");
    assert_eq!(follow.err().lines().count(), 1, "{}", follow.err());
    assert_eq!(follow.interrupt().code(), Some(130));
}

#[test]
fn who_follows_calls_ends_with_the_key() {
    let dev = Dev::start();
    made(&dev.world, 3);
    let created = ["keys", "create", "reader", "--scope", "calls:read"];
    let created = dev.world.json(&created);
    let text = |field: &str| {
        created[field]
            .as_str()
            .unwrap_or_else(|| panic!("{created}"))
            .to_owned()
    };
    let (key, id) = (text("key"), text("id"));
    let mut follow = dev
        .world
        .start(&["calls", "--follow", "--token", &key, "--url", &dev.url]);
    follow.says(ECHO);

    dev.world.ok(&["keys", "revoke", &id]);

    assert_eq!(follow.ended().code(), Some(4), "{}", follow.err());
}
