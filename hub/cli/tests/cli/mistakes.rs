//! Mistakes that can be seen before a hub is asked, or that a hub would silently accept.

use crate::fixture::{Dev, World};

/// The line and the exit code 2 of an offer, for which no hub is needed.
fn refused(world: &World, arguments: &[&str]) -> String {
    let hub = ["--url", "http://127.0.0.1:9", "--token", "x"];
    world.fails(2, &[&["offer"], &hub[..], arguments].concat())
}

#[test]
fn an_offer_that_cannot_work_is_refused_with_the_operation_and_the_field() {
    let world = World::new();
    for (operations, says) in [
        (
            "[{name: a.b, command: [cat], inputSchema: {minimum: many}}]",
            &["`a.b`", "`inputSchema`", "minimum"][..],
        ),
        (
            "[{name: a.b, command: [cat], outputSchema: {$ref: 'http://127.0.0.1:9/x'}}]",
            &["`a.b`", "`outputSchema`"],
        ),
        (
            "[{name: a.b, command: [cat]}, {name: a.b, command: [tac]}]",
            &["`a.b`", "twice"],
        ),
        ("[{name: hub.list, command: [cat]}]", &["`hub.list`", "reserved"]),
        (
            "[{name: a.b, command: [no-such-program]}]",
            &["`a.b`", "`command`", "no-such-program", "PATH"],
        ),
        (
            "[{name: a.b, command: [./spoke.yaml]}]",
            &["`a.b`", "`command`", "./spoke.yaml"],
        ),
        (
            "[{name: a.b, command: [cat], folder: nowhere}]",
            &["`a.b`", "`folder`", "nowhere"],
        ),
        (
            "[{name: a.b, command: [cat], requiredScopes: [task:read, Admin]}]",
            &["`a.b`", "`requiredScopes`", "`admin`"],
        ),
        ("[{name: a.b, command: [cat]}]\nconcurrency: 0", &["concurrency", "0"]),
    ] {
        let file = world.write("spoke.yaml", &format!("operations: {operations}\n"));
        let line = refused(&world, &["--file", &file]);
        assert!(line.contains("spoke.yaml"), "{operations}: {line}");
        for word in says {
            assert!(line.contains(word), "{operations}: {word}: {line}");
        }
    }
}

#[test]
fn an_offer_of_one_command_is_checked_too() {
    let world = World::new();
    let schema = world.write("schema.json", r#"{"minimum": "many"}"#);

    let line = refused(&world, &["a.b", "--input-schema", &schema, "--", "cat"]);
    assert!(line.contains("`a.b`") && line.contains("`inputSchema`"), "{line}");
    let line = refused(&world, &["a.b", "--", "/no/such/program"]);
    assert!(line.contains("`a.b`") && line.contains("/no/such/program"), "{line}");
    let none = world.run(&["offer", "a.b", "--concurrency", "0", "--", "cat"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("--concurrency"),
        "{none:?}"
    );
}

#[test]
fn what_a_command_cannot_mean_is_refused_by_name() {
    let world = World::new();
    let hub = ["--url", "http://127.0.0.1:9", "--token", "x"];

    let both = world.fails(2, &["call", "a.b", "-", "--url", hub[1], "--token-file", "-"]);
    assert!(both.contains("standard input") && both.contains("@FILE"), "{both}");
    let operation = world.fails(2, &[&["calls", "--operation", "nope"], &hub[..]].concat());
    assert!(operation.contains("namespace.operation"), "{operation}");
    let zero = world.run(&[&["call", "a.b", "--timeout", "0"], &hub[..]].concat());
    assert_eq!(zero.status.code(), Some(2), "{zero:?}");
    for (variable, value) in [("ALKHUB_URL", ""), ("ALKHUB_TOKEN", ""), ("ALKHUB_CA_FILE", "")] {
        let mut world = World::new();
        world.set(variable, value);
        let line = world.fails(2, &["operations"]);
        assert!(line.contains(variable), "{line}");
    }
}

#[test]
fn a_wildcard_over_types_is_refused() {
    let world = World::new();

    for topic in ["*", "*:1", "job.*", "job.*:42"] {
        let line = world.fails(2, &["subscribe", topic, "--url", "http://127.0.0.1:9", "--token", "x"]);
        assert!(
            line.contains("no wildcard over types") && line.contains("TYPE:ID"),
            "{line}"
        );
    }
}

#[test]
fn a_scope_that_can_never_match_is_refused_with_the_nearest_right_one() {
    let dev = Dev::start();
    let create = |scope: &str| dev.world.run(&["keys", "create", "x", "--scope", scope]);

    for (scope, form) in [
        ("call", "`call:*`"),
        ("call:text*", "`call:text.*`"),
        ("events:publish", "`events:publish:TYPE`"),
        ("events:subscribe", "`events:subscribe:TYPE:*`"),
        ("operations", "`operations:read`"),
        ("Admin", "`admin`"),
        ("spoke", "--spoke"),
        ("admn", "`admin`"),
        ("operation:raed", "`operations:read`"),
        ("events:publsh:job", "`events:publish:TYPE`"),
    ] {
        let output = create(scope);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{scope}: {said}");
        assert!(said.contains(form), "{scope}: {said}");
    }
    for scope in [
        "call:*",
        "call:text.upper",
        "events:subscribe:job.done:*",
        "events:subscribe:job.done:42",
        "billing",
    ] {
        let output = create(scope);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{scope}: {said}");
    }
}
