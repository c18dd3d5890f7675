//! The client commands against one development hub.

use nix::sys::signal::Signal;

use crate::fixture::{Dev, World, run_with_input};

#[test]
fn an_offered_command_is_listed_called_and_recorded() {
    let dev = Dev::start();
    let mut spoke = dev.offer(&["text.upper", "--description", "Shouts", "--", "tr", "a-z", "A-Z"]);
    let world = &dev.world;

    assert_eq!(world.ok(&["call", "text.upper", "\"hello\""]), "HELLO\n");
    assert_eq!(
        world.ok(&["call", "text.upper", "\"hello\"", "--output", "json"]),
        "\"HELLO\"\n"
    );
    let by_pipe = run_with_input(&mut world.command(&["call", "text.upper", "-"]), "\"piped\"");
    assert_eq!(String::from_utf8_lossy(&by_pipe.stdout), "PIPED\n");
    let file = world.write("input.json", "\"filed\"");
    assert_eq!(world.ok(&["call", "text.upper", &format!("@{file}")]), "FILED\n");

    let operations = world.json(&["operations"]);
    assert_eq!(operations[0]["operation"], "text.upper");
    assert_eq!(operations[0]["description"], "Shouts");
    assert_eq!(
        world.json(&["operations", "--search", "shouts"])[0]["operation"],
        "text.upper"
    );
    assert_eq!(
        world.json(&["operations", "--search", "nothing-of-this"]),
        serde_json::json!([])
    );
    assert!(world.ok(&["operations"]).contains("OPERATION"), "a table has a header");

    let spokes = world.json(&["spokes"]);
    assert_eq!(
        (&spokes[0]["name"], &spokes[0]["status"]),
        (&"text".into(), &"connected".into())
    );

    let calls = crate::fixture::wait("four records", || {
        let calls = world.json(&["calls", "--operation", "text.upper"]);
        if calls.as_array().is_some_and(|calls| calls.len() == 4) {
            Ok(calls)
        } else {
            Err(calls.to_string())
        }
    });
    assert_eq!(calls[0]["status"], "completed");

    assert!(spoke.interrupt().success());
    let line = world.fails(5, &["call", "text.upper", "\"hello\""]);
    assert!(line.contains("NO_PROVIDER"), "{line}");
}

#[test]
fn what_goes_wrong_is_one_line_and_an_exit_code() {
    let dev = Dev::start();
    let world = &dev.world;
    let schema = world.write("schema.json", r#"{"type": "integer"}"#);
    let _spoke = dev.offer(&[
        "text.even",
        "--input-schema",
        &schema,
        "--",
        "sh",
        "-c",
        "echo no >&2; exit 3",
    ]);

    for (code, says, arguments) in [
        (5, "OPERATION_NOT_FOUND", &["call", "no.such"][..]),
        (2, "namespace.operation", &["call", "nodot"]),
        (6, "not JSON", &["call", "text.even", "hello"]),
        (6, "VALIDATION_ERROR", &["call", "text.even", "\"text\""]),
        (7, "exit status: 3: no", &["call", "text.even", "4"]),
        (2, "reserved", &["publish", "call.requested", "1", "{}"]),
        (4, "UNAUTHENTICATED", &["operations", "--token", "alk_wrong"]),
        (
            3,
            "cannot reach the hub",
            &[
                "call",
                "a.b",
                "--timeout",
                "500ms",
                "--url",
                "http://127.0.0.1:9",
                "--token",
                "x",
            ],
        ),
        (
            5,
            "NOT_FOUND",
            &["keys", "revoke", "01939b9e-0000-7000-8000-000000000000"],
        ),
        (2, "http://", &["operations", "--url", "localhost"]),
    ] {
        let line = world.fails(code, arguments);
        assert!(line.contains(says), "{arguments:?}: {line}");
        assert!(line.starts_with("alkhub: "), "{line}");
    }
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_running_hub() {
    let dev = Dev::start();
    let nobody = World::new();
    let key = dev.key();

    let found = dev
        .world
        .command(&["spokes"])
        .env("ALKHUB_URL", "http://127.0.0.1:9")
        .output()
        .expect("runs");
    let by_flag = nobody
        .command(&["spokes", "--url", &dev.url])
        .env("ALKHUB_URL", "http://127.0.0.1:9")
        .env("ALKHUB_TOKEN", &key)
        .output()
        .expect("runs");

    assert_eq!(
        found.status.code(),
        Some(3),
        "the environment names a hub that is not there"
    );
    assert!(by_flag.status.success(), "{by_flag:?}");
    assert!(nobody.fails(2, &["spokes"]).contains("alkhub dev"));
}

#[test]
fn an_event_reaches_its_subscribers() {
    let dev = Dev::start();
    let world = &dev.world;
    let mut all = world.start(&["subscribe", "job.done", "--output", "json"]);
    let mut one = world.start(&["subscribe", "job.done:42", "--count", "1"]);
    all.notes("listening on job.done:*");
    one.notes("listening on job.done:42");

    world.ok(&["publish", "job.done", "41", "{\"ok\": false}"]);
    world.ok(&["publish", "job.done", "42", "{\"ok\": true}"]);

    assert!(one.ended().success());
    assert_eq!(one.out(), "job.done:42  {\"ok\":true}\n");
    let lines = all.says("\"42\"");
    assert_eq!(
        lines.lines().next(),
        Some(r#"{"type":"job.done","id":"41","payload":{"ok":false}}"#)
    );
    assert_eq!(all.interrupt().code(), Some(130));
}

#[test]
fn a_key_is_shown_once_limited_by_its_scopes_and_ends_when_it_is_revoked() {
    let dev = Dev::start();
    let world = &dev.world;
    let made = world.json(&[
        "keys",
        "create",
        "reader",
        "--scope",
        "operations:read",
        "--expires-in",
        "1h",
    ]);
    let (key, id) = (
        made["key"].as_str().expect("shown"),
        made["id"].as_str().expect("an id"),
    );

    assert_eq!(
        world.json(&["operations", "--token", key, "--url", &dev.url]),
        serde_json::json!([])
    );
    let denied = world.fails(4, &["spokes", "--token", key, "--url", &dev.url]);
    assert!(denied.contains("spokes:read"), "the missing scope is named: {denied}");
    assert!(!world.ok(&["keys", "list"]).contains(key));

    let mut listening = world.start(&["keys", "create", "listener", "--scope", "events:subscribe:*"]);
    assert!(listening.ended().success());
    let listener = listening.out().trim().to_owned();
    let mut events = world.start(&["subscribe", "job.done", "--token", &listener, "--url", &dev.url]);
    events.notes("listening");
    let keys = world.json(&["keys", "list"]);
    let listener_id = keys
        .as_array()
        .expect("a list")
        .iter()
        .find(|k| k["name"] == "listener")
        .expect("made");
    world.ok(&["keys", "revoke", listener_id["id"].as_str().expect("an id")]);
    assert_eq!(events.ended().code(), Some(4), "{}", events.err());

    world.ok(&["keys", "revoke", id]);
    world.fails(4, &["operations", "--token", key, "--url", &dev.url]);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let dev = Dev::start();
    let _spoke = dev.offer(&["text.many", "--kind", "subscription", "--", "seq", "100000"]);
    let alkhub = env!("CARGO_BIN_EXE_alkhub");
    let mut shell = dev.world.command(&[]);
    let shell = std::process::Command::new("bash")
        .args(["-c", &format!("set -o pipefail; {alkhub} call text.many | head -2")])
        .envs(
            shell
                .stdin(std::process::Stdio::null())
                .get_envs()
                .filter_map(|(k, v)| Some((k, v?))),
        )
        .output()
        .expect("runs");

    assert!(shell.status.success(), "{shell:?}");
    assert_eq!(String::from_utf8_lossy(&shell.stdout), "1\n2\n");
    assert_eq!(String::from_utf8_lossy(&shell.stderr), "");
}

#[test]
fn help_has_examples_for_every_command_and_exit_codes_for_call() {
    let world = World::new();

    for command in [
        "dev",
        "serve",
        "migrate",
        "offer",
        "operations",
        "calls",
        "publish",
        "subscribe",
    ] {
        assert!(world.ok(&[command, "--help"]).contains("Examples:"), "{command}");
    }
    let call = world.ok(&["call", "--help"]);
    assert!(call.contains("Exit codes:") && call.contains("Examples:"), "{call}");
    assert!(world.ok(&["keys", "create", "--help"]).contains("Examples:"));
    assert!(world.ok(&["openapi"]).contains("\"openapi\": \"3.1"));
    assert!(world.ok(&["config"]).contains("ALKHUB_"));
    let metrics = world.ok(&["metrics"]);
    for family in [
        "calls_total",
        "redis_up",
        "postgres_up",
        "connections",
        "operator_leader",
    ] {
        assert!(
            metrics.contains(&format!("`alkhub_{family}`")),
            "{family} is not in {metrics}"
        );
    }
}

#[test]
fn ctrl_c_aborts_the_remote_call() {
    let dev = Dev::start();
    let pid_file = dev.world.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; sleep 100 & wait",
        pid_file.display()
    );
    let _spoke = dev.offer(&["text.sleep", "--", "sh", "-c", &script]);
    let mut call = dev.world.start(&["call", "text.sleep"]);
    let group = crate::fixture::wait("the command to run", || {
        let text = std::fs::read_to_string(&pid_file).map_err(|e| e.to_string())?;
        text.trim()
            .parse::<i32>()
            .map(nix::unistd::Pid::from_raw)
            .map_err(|e| e.to_string())
    });

    call.signal(Signal::SIGINT);

    assert_eq!(call.ended().code(), Some(130));
    crate::fixture::wait("the whole process group to end", || {
        match nix::sys::signal::killpg(group, None) {
            Err(_) => Ok(()),
            Ok(()) => Err("it runs".to_owned()),
        }
    });
    crate::fixture::wait("the record", || {
        let calls = dev.world.json(&["calls", "--status", "aborted"]);
        if calls[0]["operation"] == "text.sleep" {
            Ok(())
        } else {
            Err(calls.to_string())
        }
    });
}

#[test]
fn json_goes_from_the_wire_to_the_reader_as_it_came() {
    let dev = Dev::start();
    let world = &dev.world;
    let any = world.write("any.json", "true");
    let _spoke = dev.offer(&["lab.echo", "--output-schema", &any, "--", "cat"]);
    let _stream = dev.offer(&[
        "stream.echo",
        "--kind",
        "subscription",
        "--output-schema",
        &any,
        "--",
        "cat",
    ]);
    let input = r#"{"n":123456789012345678901234567890,"f":1.10,"a":[1E400,"\ud83d"]}"#;
    let indented = "{\n  \"n\": 123456789012345678901234567890,\n  \"f\": 1.10,\n  \"a\": [\n    1E400,\n    \"\\ud83d\"\n  ]\n}\n";

    assert_eq!(world.ok(&["call", "lab.echo", input]), indented);
    assert_eq!(
        world.ok(&["call", "lab.echo", input, "--output", "json"]),
        format!("{input}\n")
    );
    assert_eq!(world.ok(&["call", "stream.echo", input]), format!("{input}\n"));

    let mut table = world.start(&["subscribe", "px", "--count", "3"]);
    let mut lines = world.start(&["subscribe", "px", "--count", "3", "--output", "json"]);
    table.notes("listening");
    lines.notes("listening");
    for payload in [r#""cut \ud83d""#, "1E400", input] {
        world.ok(&["publish", "px", "1", payload]);
    }
    assert!(table.ended().success() && lines.ended().success());
    assert_eq!(table.out(), format!("px:1  cut \u{fffd}\npx:1  1E400\npx:1  {input}\n"));
    assert!(
        lines.out().contains(r#"{"type":"px","id":"1","payload":"cut \ud83d"}"#),
        "{}",
        lines.out()
    );
    assert!(lines.out().contains(r#""payload":1E400}"#), "{}", lines.out());
}
