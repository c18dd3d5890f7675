//! First use: looking around, declared spokes, keys by name, terminals.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::fixture::{Dev, Program, World, wait};

/// Runs the binary on a terminal of its own and returns what the terminal received.
fn on_a_terminal(world: &World, environment: &[(&str, &str)], arguments: &str) -> String {
    let given = world.command(&[]);
    let mut command = Command::new("script");
    for (name, value) in given.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let alkhub = env!("CARGO_BIN_EXE_alkhub");
    let output = command
        .env("TERM", "xterm-256color")
        // If `CI` is set, colours are for the log of a run, even on a dumb terminal, which is not what is tested here.
        .env_remove("CI")
        .env_remove("NO_COLOR")
        .envs(environment.iter().copied())
        .args(["-qec", &format!("stty cols 200; {alkhub} {arguments}"), "/dev/null"])
        .output()
        .expect("script is there");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn nobodys_text_steers_a_terminal_and_a_pipe_gets_it_as_it_is() {
    let dev = Dev::start();
    let world = &dev.world;
    let evil = "\u{1b}]52;c;aGk=\u{7}\u{9b}2J\u{202e}";
    let any = world.write("any.json", "true");
    let description = format!("{evil}\nfake.operation  query");
    let _text = dev.offer(&["evil.text", "--description", &description, "--", "cat"]);
    let _json = dev.offer(&["evil.json", "--output-schema", &any, "--", "cat"]);
    let _fails = dev.offer(&["evil.fails", "--", "sh", "-c", "cat >&2; exit 1"]);
    let _items = dev.offer(&["evil.items", "--kind", "subscription", "--", "cat"]);
    let input = world.write(
        "input.json",
        &serde_json::to_string(&format!("{evil}\nmore")).expect("a text"),
    );
    let object = world.write("object.json", "{\"a\":\"\u{9b}2J\u{202e}\u{7f}\"}");
    let shows = |said: &str| {
        let told = said.replace("\r\n", "\n");
        let obeyed = told
            .chars()
            .find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(obeyed, None, "{told:?}");
        told
    };

    assert_eq!(
        world.ok(&["call", "evil.text", &format!("@{input}")]),
        format!("{evil}\nmore\n"),
        "piped"
    );
    let text = shows(&on_a_terminal(world, &[], &format!("call evil.text @{input}")));
    assert!(
        text.contains("\\u{1b}]52;c;aGk=\\u{7}") && text.contains("\nmore\n"),
        "{text}"
    );
    let json = shows(&on_a_terminal(world, &[], &format!("call evil.json @{object}")));
    assert!(json.contains("\"\\u009b2J\\u202e\\u007f\""), "{json}");
    let items = shows(&on_a_terminal(world, &[], &format!("call evil.items @{input}")));
    assert!(items.contains("\\u{9b}2J"), "{items}");
    let listed = shows(&world.ok(&["operations"]));
    assert!(listed.contains("\\nfake.operation"), "one row each: {listed}");
    shows(&on_a_terminal(
        world,
        &[("NO_COLOR", "1")],
        "operations describe evil.text",
    ));
    shows(&world.fails(7, &["call", "evil.fails", &format!("@{input}")]));
    shows(&world.fails(5, &["keys", "revoke", "\u{1b}[31m"]));
    let mut events = world.start(&["subscribe", "px", "--count", "1"]);
    events.notes("listening");
    world.ok(&["publish", "px", "1", &format!("@{input}")]);
    events.ended();
    assert_eq!(shows(&events.out()).lines().count(), 1, "{}", events.out());
}

#[test]
fn there_are_colours_on_a_terminal_and_none_where_they_are_not_wanted() {
    let dev = Dev::start();
    let _spoke = dev.offer(&["text.upper", "--", "tr", "a-z", "A-Z"]);
    let green = "\u{1b}[38;5;10m";

    let coloured = on_a_terminal(&dev.world, &[], "spokes");
    assert!(
        coloured.contains(green) && coloured.contains("connected"),
        "{coloured:?}"
    );
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let said = on_a_terminal(&dev.world, &[plain], "spokes");
        assert!(
            said.contains("connected") && !said.contains('\u{1b}'),
            "{plain:?}: {said:?}"
        );
    }
    assert!(!dev.world.ok(&["spokes"]).contains('\u{1b}'), "a pipe has no colours");
}

#[test]
fn one_looks_around_with_status_describe_and_follow() {
    let dev = Dev::start();
    let world = &dev.world;
    let number = world.write("number.json", r#"{"type": "number", "maximum": 1.50}"#);
    let _spoke = dev.offer(&[
        "lab.half",
        "--input-schema",
        &number,
        "--description",
        "Halves",
        "--",
        "cat",
    ]);

    let status = world.ok(&["status"]);
    for fact in [
        "postgres  up",
        "redis     none",
        "spokes    1 connected",
        "CONNECTIONS",
        "answers",
    ] {
        assert!(status.contains(fact), "{fact}: {status}");
    }
    assert_eq!(world.json(&["status"])["postgres"], "up");
    let told = world.ok(&["operations", "describe", "lab.half"]);
    for fact in [
        "Halves",
        "spokes        lab",
        "scopes        call:lab.half",
        "\"maximum\": 1.50",
    ] {
        assert!(told.contains(fact), "{fact}: {told}");
    }
    assert_eq!(
        world.json(&["operations", "describe", "lab.half"])["inputSchema"]["type"],
        "number"
    );
    assert!(
        world
            .fails(5, &["operations", "describe", "lab.none"])
            .contains("lab.none")
    );
    assert_eq!(
        world.ok(&["version"]),
        format!("alkhub {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(world.ok(&["completions", "bash"]).contains("complete -F _alkhub"));

    world.ok(&["call", "lab.half", "1"]);
    let mut follow = world.start(&["calls", "--follow"]);
    follow.says("completed");
    world.fails(6, &["call", "lab.half", "2"]);
    let both = follow.says("failed");
    assert!(
        both.contains("VALIDATION_ERROR") && both.find("completed") < both.find("failed"),
        "{both}"
    );
    assert_eq!(both.matches("completed").count(), 1, "each once: {both}");
    assert_eq!(follow.interrupt().code(), Some(130));
}

#[test]
fn a_hub_and_an_offer_tell_of_each_call_unless_they_are_quiet() {
    let mut dev = Dev::start();
    let mut loud = dev.offer(&["loud.run", "--", "cat"]);
    let quiet = dev.offer(&["quiet.run", "--quiet", "--", "cat"]);
    let mut fails = dev.offer(&["fails.run", "--", "sh", "-c", "echo why >&2; exit 1"]);

    dev.world.ok(&["call", "quiet.run"]);
    dev.world.ok(&["call", "loud.run"]);
    dev.world.fails(7, &["call", "fails.run"]);

    loud.notes("answered");
    assert!(fails.notes("failed: ").contains("why"));
    let told = dev.program.notes("fails.run");
    assert!(told.contains("loud.run") && told.contains("EXECUTION_ERROR"), "{told}");
    assert_eq!(quiet.err().lines().count(), 1, "{}", quiet.err());
}

#[test]
fn a_declared_spoke_gets_a_key_is_suspended_and_deleted() {
    let dev = Dev::start();
    let world = &dev.world;
    let first = [
        "spokes",
        "declare",
        "builder",
        "--operation",
        "build.*",
        "--label",
        "team=a",
    ];
    let key = world.ok(&first).trim().to_owned();
    let offer = |name: &str| {
        let arguments = ["offer", name, "--url", &dev.url, "--", "cat"];
        Program::start(name.to_owned(), world.command(&arguments).env("ALKHUB_TOKEN", &key))
    };
    let mut spoke = offer("build.run");
    spoke.notes("offering build.run as spoke `builder`");

    assert_eq!(world.json(&["spokes", "--label", "team=a"])[0]["name"], "builder");
    assert!(world.ok(&["spokes", "--label", "team"]).contains("team=a"));
    assert_eq!(world.json(&["spokes", "--label", "team=b"]), serde_json::json!([]));

    world.ok(&["spokes", "suspend", "builder"]);
    spoke.notes("4403");
    assert_eq!(world.json(&["spokes"])[0]["status"], "suspended");
    assert!(world.ok(&["spokes"]).contains("team=a"), "the declaration stays");
    world.ok(&["spokes", "resume", "builder"]);
    wait("the spoke to be back", || {
        let spokes = world.json(&["spokes"]);
        (spokes[0]["status"] == "connected")
            .then_some(())
            .ok_or_else(|| spokes.to_string())
    });

    // Again: a changed declaration, the same key.
    assert_eq!(world.ok(&["spokes", "declare", "builder", "--operation", "test.*"]), "");
    let refused = offer("build.other").ended();
    assert_eq!(refused.code(), Some(1));
    let other = world.ok(&["spokes", "declare", "builder", "--operation", "test.*", "--new-key"]);
    assert!(other.starts_with("alk_") && other.trim() != key, "{other}");

    world.ok(&["spokes", "delete", "builder"]);
    spoke.ended();
    assert!(spoke.err().contains("4401"), "{}", spoke.err());
    assert!(world.fails(5, &["spokes", "delete", "builder"]).contains("builder"));
}

#[test]
fn a_first_declaration_ends_keys_only_when_it_is_told_to() {
    let dev = Dev::start();
    let world = &dev.world;
    let key = world.ok(&["keys", "create", "laptop", "--spoke", "text"]);
    let mut spoke = dev.offer(&["text.run", "--url", &dev.url, "--token", key.trim(), "--", "cat"]);

    let refused = world.fails(2, &["spokes", "declare", "text"]);
    assert!(
        refused.contains("laptop (") && refused.contains("--end-keys"),
        "{refused}"
    );
    assert_eq!(world.json(&["spokes"])[0]["status"], "connected");

    let new = world.ok(&["spokes", "declare", "text", "--end-keys"]);
    assert_eq!(spoke.ended().code(), Some(4), "{}", spoke.err());
    let made = world.ok(&["keys", "create", "later", "--spoke", "text"]);
    let _again = dev.offer(&["text.run", "--url", &dev.url, "--token", made.trim(), "--", "cat"]);
    world.ok(&["spokes", "declare", "text", "--new-key"]);
    let listed = world.json(&["keys", "list", "--url", &dev.url, "--token", &dev.key()]);
    let later = listed
        .as_array()
        .expect("keys")
        .iter()
        .find(|key| key["name"] == "later");
    assert!(
        later.expect("made")["revokedAt"].is_null(),
        "what is made after it stays: {listed}"
    );
    assert!(new.starts_with("alk_"));
}

#[test]
fn what_an_admins_key_keeps_connected_is_not_called_deleted() {
    let dev = Dev::start();
    let world = &dev.world;
    let mut by_admin = dev.offer(&["text.run", "--", "cat"]);

    let line = world.fails(1, &["spokes", "delete", "text"]);
    assert!(line.contains("not deleted") && line.contains("admin"), "{line}");
    let key = world.ok(&["keys", "create", "laptop", "--spoke", "text"]);
    let mut by_key = dev.offer(&["text.run", "--url", &dev.url, "--token", key.trim(), "--", "cat"]);
    let line = world.fails(1, &["spokes", "delete", "text"]);
    assert!(line.contains("still there"), "{line}");
    assert_eq!(by_key.ended().code(), Some(4), "its key ended");

    assert!(by_admin.interrupt().success());
}

#[test]
fn a_namespace_that_makes_no_spokes_name_is_answered_with_the_flag() {
    let dev = Dev::start();

    let line = dev.world.fails(2, &["offer", "Slow-.x", "--", "cat"]);
    assert!(line.contains("--spoke NAME") && line.contains("Slow-.x"), "{line}");
    let mut mapped = dev.world.start(&["offer", "My_space.x", "--", "cat"]);
    mapped.notes("as spoke `my-space`");
}

#[test]
fn the_labels_of_an_offer_are_shown_and_found() {
    let dev = Dev::start();
    let file = dev.world.write(
        "spoke.yaml",
        "spoke: labelled\nlabels: {zone: north}\noperations: [{name: labelled.run, command: [cat]}]\n",
    );
    let _spoke = dev.offer(&["--file", &file]);

    assert!(
        dev.world
            .ok(&["spokes", "--label", "zone=north"])
            .contains("zone=north")
    );
    assert_eq!(
        dev.world.json(&["spokes", "--label", "zone=south"]),
        serde_json::json!([])
    );
}

#[test]
fn a_key_is_revoked_by_a_name_that_no_other_has() {
    let dev = Dev::start();
    let world = &dev.world;
    let create = |name: &str| world.json(&["keys", "create", name, "--scope", "calls:read"]);
    create("one");
    let (first, second) = (create("two"), create("two"));

    world.ok(&["keys", "revoke", "one"]);
    assert!(world.fails(5, &["keys", "revoke", "one"]).contains("`one`"));
    let both = world.fails(2, &["keys", "revoke", "two"]);
    let id = |key: &serde_json::Value| key["id"].as_str().expect("an id").to_owned();
    assert!(both.contains(&id(&first)) && both.contains(&id(&second)), "{both}");
    world.ok(&["keys", "revoke", &id(&first)]);
    world.ok(&["keys", "revoke", "two"]);
}

#[test]
fn an_event_reaches_the_topic_that_it_names_where_a_path_cannot() {
    let dev = Dev::start();
    let ids = ["..", ".", "...", "%2e%2e", "a/../b"];
    let mut all = dev
        .world
        .start(&["subscribe", "job", "--output", "json", "--count", "5"]);
    all.notes("listening");
    let mut dots = dev.world.start(&["subscribe", "..:x", "--count", "1"]);
    dots.notes("listening");

    for id in ids {
        dev.world.ok(&["publish", "job", id, "\"x\""]);
    }
    dev.world.ok(&["publish", "..", "x", "\"x\""]);

    assert!(all.ended().success());
    let lines = all.out();
    let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
    assert_eq!(
        lines,
        ids.map(|id| format!(r#"{{"type":"job","id":"{id}","payload":"x"}}"#))
    );
    assert!(dots.ended().success());
}

#[test]
fn an_event_needs_no_id_and_no_payload() {
    let dev = Dev::start();
    let mut all = dev
        .world
        .start(&["subscribe", "tick", "--output", "json", "--count", "3"]);
    all.notes("listening");

    dev.world.ok(&["publish", "tick"]);
    dev.world.ok(&["publish", "tick", "7"]);
    dev.world.ok(&["publish", "tick", "7", "null"]);

    assert!(all.ended().success());
    let lines = all.out();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"type":"tick","id":""}"#,
            r#"{"type":"tick","id":"7"}"#,
            r#"{"type":"tick","id":"7","payload":null}"#
        ]
    );
}

#[test]
fn the_address_of_the_development_hub_hides_its_key_no_more_and_that_of_another_does() {
    let dev = Dev::start();

    let same = dev.world.command(&["spokes"]).env("ALKHUB_URL", &dev.url).output();
    let other = dev.url.replace("127.0.0.1", "localhost");
    let other = dev.world.command(&["spokes"]).env("ALKHUB_URL", other).output();

    assert!(same.expect("runs").status.success());
    assert_eq!(
        other.expect("runs").status.code(),
        Some(4),
        "no key goes to another address"
    );
}

#[test]
fn a_key_on_the_command_line_is_not_in_the_list_of_processes() {
    let dev = Dev::start();
    let key = dev.key();
    let by_flag = ["subscribe", "px", "--url", &dev.url, "--token", &key];
    let mut by_flag = dev.world.start(&by_flag);
    by_flag.notes("listening");
    let command_line = format!("/proc/{}/cmdline", by_flag.id());

    let seen = std::fs::read_to_string(command_line).expect("it runs");
    assert!(seen.contains("subscribe") && !seen.contains(&key), "{seen:?}");
    by_flag.signal(Signal::SIGINT);

    let other = World::new();
    let mut elsewhere = other.start(&[
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--redis-url",
        "redis://:secret@127.0.0.1:1",
        "--database-url=postgres://me:secret@127.0.0.1:1/x",
    ]);
    elsewhere.notes("waiting for");
    let seen = std::fs::read_to_string(format!("/proc/{}/cmdline", elsewhere.id())).expect("it waits");
    assert!(seen.contains("dev") && !seen.contains("secret"), "{seen:?}");
    elsewhere.signal(Signal::SIGINT);
    let foreign = dev.world.command(&["version", "--token", "k"]).output().expect("runs");
    assert_eq!(foreign.status.code(), Some(2), "no flag of this command: {foreign:?}");

    let file = dev.world.write("key", &format!("{key}\n"));
    dev.world.ok(&["spokes", "--url", &dev.url, "--token-file", &file]);
    let mut by_pipe = dev.world.command(&["spokes", "--url", &dev.url, "--token-file", "-"]);
    let by_pipe = crate::fixture::run_with_input(&mut by_pipe, &key);
    assert!(by_pipe.status.success(), "{by_pipe:?}");
    let empty = dev.world.write("empty", "\n");
    assert!(
        dev.world
            .fails(2, &["spokes", "--token-file", &empty])
            .contains("no key")
    );
}

#[test]
fn options_stand_on_the_commands_that_they_are_for() {
    let world = World::new();

    for command in [
        "serve",
        "migrate",
        "dev",
        "config",
        "metrics",
        "openapi",
        "version",
        "completions",
    ] {
        let help = world.ok(&[command, "--help"]);
        for option in ["--url", "--token", "--ca-file", "--output"] {
            assert!(!help.contains(&format!("{option} ")), "{command} {option}: {help}");
        }
    }
    for command in [
        &["selftest", "--calls", "0"][..],
        &["calls", "--limit", "0"],
        &["serve", "--output", "json"],
    ] {
        let refused = world.run(command);
        assert_eq!(refused.status.code(), Some(2), "{command:?}: {refused:?}");
    }
    for command in [
        &["operations", "describe"][..],
        &["spokes"],
        &["spokes", "declare"],
        &["spokes", "suspend"],
        &["spokes", "delete"],
        &["keys", "list"],
        &["keys", "revoke"],
        &["status"],
        &["completions"],
    ] {
        let help = world.ok(&[command, &["--help"]].concat());
        assert!(help.contains("Examples:"), "{command:?}: {help}");
    }
}

#[test]
fn a_hub_that_others_can_reach_is_warned_of() {
    let mut dev = Dev::start_at(World::new(), "0.0.0.0:0", &[]);

    let told = dev.program.notes("warning: ");

    assert!(told.contains("0.0.0.0") && told.contains("in the clear"), "{told}");
}

#[test]
fn a_bare_number_is_seconds_as_in_the_header() {
    let dev = Dev::start();
    let _spoke = dev.offer(&["text.sleep", "--", "sleep", "100"]);

    let line = dev.world.fails(8, &["call", "text.sleep", "--timeout", "1"]);

    assert!(line.contains("TIMEOUT"), "{line}");
}
