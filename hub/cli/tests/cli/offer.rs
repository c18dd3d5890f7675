//! `alkhub offer`: how input and output are mapped, and how commands end.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use alkhub_test_support::Port;

use crate::fixture::{Dev, World, wait};

#[test]
fn whatever_schema_a_hub_takes_is_offered_with_every_digit_of_it() {
    let dev = Dev::start();
    let file = dev.world.write(
        "spoke.yaml",
        "
        spoke: typed
        operations:
          - {name: typed.nothing, command: ['true'], inputSchema: {type: void}}
          - {name: typed.pair, command: ['true'], inputSchema: {type: array, items: [{type: string}, {type: number}]}}
          - {name: typed.above, command: ['true'], inputSchema: {type: number, minimum: 1, exclusiveMinimum: true}}
          - {name: typed.date, command: ['true'], inputSchema: {type: Date}}
          - {name: typed.digits, command: ['true'], inputSchema: {enum: [0.125, 1.10, 2.50]}}
        ",
    );

    let spoke = dev.offer(&["--file", &file]);

    let warned = spoke.err();
    assert!(warned.contains("`typed.date`") && warned.contains("`Date`"), "{warned}");
    assert!(!warned.contains("refused"), "{warned}");
    let digits = dev
        .world
        .ok(&["operations", "describe", "typed.digits", "--output", "json"]);
    assert!(digits.contains("1.10") && digits.contains("2.50"), "{digits}");
}

#[test]
fn input_and_output_are_mapped_by_the_schemas() {
    let dev = Dev::start();
    let world = &dev.world;
    let object = world.write("object.json", r#"{"type": "object"}"#);
    let gone = world.write("gone", "#!/bin/sh\n");
    std::fs::set_permissions(&gone, Permissions::from_mode(0o755)).expect("ours");
    let file = world.write(
        "spoke.yaml",
        "
        spoke: mapping
        operations:
          - {name: map.text, kind: query, command: [cat]}
          - {name: map.json, kind: query, command: [cat], outputSchema: true}
          - {name: map.lines, kind: query, command: [printf, 'a\\n\\n']}
          - {name: map.number, kind: query, command: [echo, text], outputSchema: {type: number}}
          - {name: map.wrong, kind: query, command: [echo, '5'], outputSchema: {type: object}}
          - {name: map.missing, kind: query, command: [./gone]}
          - {name: map.count, kind: subscription, command: [sh, -c, 'seq $(cat); echo; exit 0'], outputSchema: {type: number}}
          - {name: map.breaks, kind: subscription, command: [sh, -c, 'echo one; echo two >&2; exit 7']}
        ",
    );
    let _spoke = dev.offer(&["--file", &file]);
    std::fs::remove_file(gone).expect("ours");
    let _single = dev.offer(&["single.object", "--output-schema", &object, "--", "cat"]);

    let json = |operation: &str, input: &str| world.ok(&["call", operation, input, "--output", "json"]);
    assert_eq!(json("map.text", "\"a b\""), "\"a b\"\n", "a string goes in raw");
    assert_eq!(
        json("map.text", "{ \"b\": 1.50, \"a\": [1, 2] }"),
        "\"{\\\"b\\\":1.50,\\\"a\\\":[1,2]}\"\n"
    );
    assert_eq!(json("map.json", "{\"a\": 1}"), "{\"a\":1}\n");
    assert_eq!(json("map.lines", "null"), "\"a\\n\"\n", "text loses one newline");
    assert_eq!(json("single.object", "{\"a\": 1}"), "{\"a\":1}\n");
    assert_eq!(world.ok(&["call", "map.count", "3"]), "1\n2\n3\n");

    for (operation, says) in [
        ("map.number", "is not JSON"),
        ("map.wrong", "OUTPUT_INVALID"),
        ("map.missing", "cannot run `./gone`"),
    ] {
        let line = world.fails(7, &["call", operation]);
        assert!(line.contains(says), "{line}");
    }
    let broken = world.run(&["call", "map.breaks"]);
    assert_eq!(
        (broken.status.code(), String::from_utf8_lossy(&broken.stdout).as_ref()),
        (Some(7), "one\n")
    );
    assert!(
        String::from_utf8_lossy(&broken.stderr).contains("exit status: 7: two"),
        "{broken:?}"
    );
}

#[test]
fn a_deadline_ends_the_command() {
    let dev = Dev::start();
    let _spoke = dev.offer(&["text.sleep", "--", "sh", "-c", "echo $$ > group; sleep 100 & wait"]);

    let mut call = dev.world.start(&["call", "text.sleep", "--timeout", "10s"]);
    let group = wait("the command to say its process group", || {
        let text = std::fs::read_to_string(dev.world.path().join("group")).unwrap_or_default();
        match text.strip_suffix('\n').map(str::parse) {
            Some(Ok(group)) => Ok(nix::unistd::Pid::from_raw(group)),
            _ => Err(format!("{text:?}; {}", call.err())),
        }
    });
    nix::sys::signal::killpg(group, None).expect("it runs until the deadline");
    let status = call.ended();

    let line = call.err();
    assert_eq!((status.code(), line.lines().count()), (Some(8), 1), "{line}");
    assert!(line.contains("TIMEOUT"), "{line}");
    wait("the process group to end", || {
        match nix::sys::signal::killpg(group, None) {
            Err(_) => Ok(()),
            Ok(()) => Err("it runs".to_owned()),
        }
    });
}

#[test]
fn a_name_that_a_key_may_not_offer_is_refused_with_the_reason() {
    let dev = Dev::start();
    let made = dev.world.json(&["keys", "create", "builder", "--spoke", "builder"]);
    let key = made["key"].as_str().expect("shown");
    let with_key = |name: &str| ["offer", name, "--token", key, "--url", &dev.url, "--", "cat"].map(str::to_owned);

    let refused = with_key("text.upper");
    let line = dev.world.fails(1, &refused.each_ref().map(String::as_str));
    let reserved = dev.world.fails(2, &["offer", "hub.list", "--spoke", "x", "--", "cat"]);
    let allowed = with_key("builder.run");
    let mut spoke = dev.world.start(&allowed.each_ref().map(String::as_str));

    assert!(line.contains("text.upper") && line.contains("builder.*"), "{line}");
    assert!(reserved.contains("hub"), "{reserved}");
    spoke.notes("offering builder.run as spoke `builder`");
}

#[test]
fn a_spoke_comes_back_when_its_hub_does() {
    // The spoke dials it while the hub is away.
    let port = Port::free();
    let listen = format!("127.0.0.1:{port}");
    let dev = Dev::start_at(World::new(), &listen, &[]);
    let mut spoke = dev.world.start(&[
        "offer",
        "text.upper",
        "--url",
        &dev.url,
        "--token",
        &dev.key(),
        "--",
        "cat",
    ]);
    spoke.notes("offering");

    let world = dev.stop();
    spoke.notes("trying again");
    let again = Dev::start_at(world, &listen, &[]);

    wait("the spoke to be called again", || {
        let output = again.world.run(&["call", "text.upper", "\"back\""]);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if out == "back\n" {
            Ok(())
        } else {
            Err(format!("{output:?}"))
        }
    });
    again.stop();
}

#[test]
fn a_command_that_runs_is_finished_at_the_end() {
    let dev = Dev::start();
    let begun = dev.world.path().join("begun");
    let mut spoke = dev.offer(&["text.slow", "--", "sh", "-c", "touch begun; sleep 1; echo done"]);
    let mut call = dev.world.start(&["call", "text.slow"]);
    wait("the command to run", || {
        begun.exists().then_some(()).ok_or_else(|| call.err())
    });

    let status = spoke.interrupt();

    assert!(
        status.success() && spoke.err().contains("finishing 1 running call"),
        "{}",
        spoke.err()
    );
    assert!(call.ended().success(), "{}", call.err());
    assert_eq!(call.out(), "done\n");
}

/// The process group that a command wrote down.
fn group(dev: &Dev, file: &str) -> nix::unistd::Pid {
    wait("the command to say its process group", || {
        let text = std::fs::read_to_string(dev.world.path().join(file)).unwrap_or_default();
        let pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok());
        pid.map(nix::unistd::Pid::from_raw).ok_or(text)
    })
}

fn ends(group: nix::unistd::Pid) {
    wait("the process group to end", || {
        match nix::sys::signal::killpg(group, None) {
            Err(_) => Ok(()),
            Ok(()) => Err("it runs".to_owned()),
        }
    });
}

#[test]
fn a_command_answers_when_it_ends_whoever_holds_its_outputs_and_leaves_nobody_behind() {
    let dev = Dev::start();
    let file = dev.world.write(
        "spoke.yaml",
        "
        spoke: bg
        operations:
          - {name: bg.hold, command: [sh, -c, 'echo $$ > hold; sleep 300 & echo hi']}
          - {name: bg.redirected, command: [sh, -c, 'echo $$ > redirected; sleep 300 >/dev/null 2>&1 & echo hi']}
          - {name: bg.stubborn, command: [sh, -c, 'echo $$ > stubborn; sh -c \"trap : TERM; while :; do sleep 1; done\" & echo hi']}
          - {name: bg.input, command: [sh, -c, 'echo $$ > input; sleep 300 <&0 & echo hi']}
          - {name: bg.fails, command: [sh, -c, 'sleep 300 & echo why >&2; exit 3']}
          - {name: bg.lines, kind: subscription, command: [sh, -c, 'echo $$ > lines; sleep 300 & echo one; echo two']}
          - {name: bg.escaped, command: [sh, -c, 'setsid sh -c \"echo \\$\\$ > escaped; exec sleep 300\" & while ! [ -s escaped ]; do sleep 0.1; done; echo hi']}
        ",
    );
    let _spoke = dev.offer(&["--file", &file]);
    let large = format!("\"{}\"", "x".repeat(200_000));
    let input = dev.world.write("large.json", &large);

    for operation in ["bg.hold", "bg.redirected", "bg.stubborn", "bg.escaped"] {
        assert_eq!(
            dev.world.ok(&["call", operation, "--timeout", "20s"]),
            "hi\n",
            "{operation}"
        );
    }
    let unread = ["call", "bg.input", &format!("@{input}"), "--timeout", "20s"].map(str::to_owned);
    assert_eq!(dev.world.ok(&unread.each_ref().map(String::as_str)), "hi\n");
    assert_eq!(dev.world.ok(&["call", "bg.lines"]), "one\ntwo\n");
    let failed = dev.world.fails(7, &["call", "bg.fails", "--timeout", "20s"]);
    assert!(failed.contains("exit status: 3: why"), "{failed}");
    for file in ["hold", "redirected", "stubborn", "input", "lines"] {
        ends(group(&dev, file));
    }
    // A process that made a group of its own is left to the test.
    let _ = nix::sys::signal::killpg(group(&dev, "escaped"), nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn half_a_surrogate_pair_reaches_a_command_as_the_replacement_character() {
    let dev = Dev::start();
    let _spoke = dev.offer(&["text.hex", "--", "od", "-An", "-tx1"]);

    let hex = dev.world.ok(&["call", "text.hex", r#""a\ud83d""#]);

    assert_eq!(hex.trim(), "61 ef bf bd");
}

#[test]
fn an_output_that_is_no_text_fails_the_call_and_names_base64() {
    let dev = Dev::start();
    let file = dev.world.write(
        "spoke.yaml",
        "
        spoke: binary
        operations:
          - {name: binary.text, command: [printf, 'ab\\377']}
          - {name: binary.json, command: [printf, '\"\\377\"'], outputSchema: true}
          - {name: binary.items, kind: subscription, command: [printf, 'a\\n\\377\\n']}
        ",
    );
    let _spoke = dev.offer(&["--file", &file]);

    for operation in ["binary.text", "binary.json"] {
        let line = dev.world.fails(7, &["call", operation]);
        assert!(line.contains("EXECUTION_ERROR") && line.contains("base64"), "{line}");
    }
    let items = dev.world.run(&["call", "binary.items"]);
    let said = String::from_utf8_lossy(&items.stderr).into_owned();
    assert_eq!(
        (items.status.code(), items.stdout.as_slice()),
        (Some(7), &b"a\n"[..]),
        "{said}"
    );
    assert!(said.contains("base64"), "{said}");
}

#[test]
fn no_key_is_in_a_commands_environment_unless_it_is_asked_for() {
    let dev = Dev::start();
    let file = dev.world.write(
        "spoke.yaml",
        "
        spoke: keyed
        operations: [{name: keyed.environment, command: [env], passKey: true}]
        ",
    );
    let key = dev.key();
    let offer = |arguments: &[&str]| {
        let mut command = dev.world.command(&[&["offer"], arguments].concat());
        command
            .env("ALKHUB_URL", &dev.url)
            .env("ALKHUB_TOKEN", &key)
            .env("ALKHUB_STORE__DATABASE_URL", "postgres://me:secret@db/x");
        let mut spoke = crate::fixture::Program::start(arguments.join(" "), &mut command);
        spoke.notes("offering");
        spoke
    };
    let _plain = offer(&["plain.environment", "--", "env"]);
    let _keyed = offer(&["--file", &file]);
    let _flagged = offer(&["flagged.environment", "--pass-key", "--", "env"]);

    let plain = dev.world.ok(&["call", "plain.environment"]);
    assert!(!plain.contains(&key) && !plain.contains("secret"), "{plain}");
    assert!(plain.contains(&format!("ALKHUB_URL={}", dev.url)), "{plain}");
    for operation in ["keyed.environment", "flagged.environment"] {
        let asked = dev.world.ok(&["call", operation]);
        assert!(asked.contains(&format!("ALKHUB_TOKEN={key}\n")), "{operation}: {asked}");
        assert!(!asked.contains("secret"), "{operation}: {asked}");
    }
}

#[test]
fn an_output_over_the_limit_is_the_commands_fault_and_not_the_callers() {
    let dev = Dev::start();
    let script = "head -c 1100000 /dev/zero | tr '\\0' x";
    let _whole = dev.offer(&["big.text", "--", "sh", "-c", script]);
    let _line = dev.offer(&["big.line", "--kind", "subscription", "--", "sh", "-c", script]);
    let close = "head -c 1048574 /dev/zero | tr '\\0' x";
    let _wrapped = dev.offer(&["big.wrapped", "--", "sh", "-c", close]);

    for operation in ["big.text", "big.line", "big.wrapped"] {
        let line = dev.world.fails(7, &["call", operation]);
        assert!(
            line.contains("EXECUTION_ERROR") && line.contains("larger than"),
            "{line}"
        );
    }
}
