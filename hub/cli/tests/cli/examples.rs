//! The examples of the docs, run as they are: spokes in JavaScript, Python, YAML and Rust, a client in Rust.

use std::path::{Path, PathBuf};
use std::process::Command;

use alkhub_test_support::skip;

use crate::fixture::{Dev, Program};

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository")
}

fn docs(name: &str) -> PathBuf {
    repository().join("docs/examples").join(name)
}

/// The packages of one language, which `make packages` fetches. Without them the test is skipped with a message, but
/// never if `CI` is set.
fn packages(language: &str, needed: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/");
    let folder = target.join("packages").join(language);
    if folder.join(needed).exists() {
        return Some(folder);
    }
    skip(&format!("{needed} is not in {}: run `make packages`", folder.display()));
    None
}

/// Waits until a spoke that is not ours has registered.
fn registered(dev: &Dev, operation: &str, spoke: &Program) {
    crate::fixture::wait(operation, || {
        let operations = dev.world.json(&["operations"]);
        let found = operations
            .as_array()
            .expect("a list")
            .iter()
            .any(|o| o["operation"] == operation);
        if found {
            Ok(())
        } else {
            Err(format!("{operations}; {}", spoke.err()))
        }
    });
}

/// A key that is not the hub's own, so that it can be revoked: the key and its id.
fn key(dev: &Dev) -> (String, String) {
    let made = dev.world.json(&["keys", "create", "example", "--scope", "admin"]);
    let text = |field: &str| made[field].as_str().expect("shown").to_owned();
    (text("key"), text("id"))
}

/// A subscription that would go on for a day ends at the spoke when its caller leaves.
fn stops_at_an_abort(dev: &Dev, operation: &str, spoke: &mut Program) {
    assert_eq!(dev.world.ok(&["call", operation, "3"]), "1\n2\n3\n");
    let ended = format!("{operation} ended");
    let before = spoke.err().matches(&ended).count();

    let mut call = dev.world.start(&["call", operation, "864000"]);
    call.says("2\n");
    assert_eq!(call.interrupt().code(), Some(130));

    crate::fixture::wait("the subscription to end at the spoke", || {
        let said = spoke.err();
        (said.matches(&ended).count() > before).then_some(()).ok_or(said)
    });
}

/// A spoke whose key is revoked ends, and says why.
fn ends_with_its_key(dev: &Dev, id: &str, spoke: &mut Program) {
    dev.world.ok(&["keys", "revoke", id]);

    let status = spoke.ended();

    let said = spoke.err();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("4401") && said.contains("the key was revoked"), "{said}");
}

#[test]
fn the_spokes_without_an_sdk_have_at_most_thirty_lines() {
    for name in ["spoke.mjs", "spoke.py"] {
        let text = std::fs::read_to_string(docs(name)).expect("an example");
        assert!(text.lines().count() <= 30, "{name}: {}", text.lines().count());
        let long = text.lines().find(|line| line.chars().count() > 140);
        assert_eq!(long, None, "{name}: a line that nobody reads");
    }
}

/// Longest input, in bytes.
const LARGEST: usize = 1024 * 1024;

/// Calls with an input as long as one may be; an answer that is too large with its envelope fails this call alone.
fn takes_the_largest_input(dev: &Dev, operation: &str, input: &str, answer: Option<usize>) {
    let file = format!("@{}", dev.world.write("largest.json", input));
    match answer {
        Some(answer) => assert_eq!(dev.world.ok(&["call", operation, &file]), format!("{answer}\n")),
        None => {
            let line = dev.world.fails(7, &["call", operation, &file]);
            assert!(line.contains("OUTPUT_INVALID"), "{line}");
        }
    }
}

#[test]
fn the_spoke_in_javascript_answers_stops_and_ends() {
    let Some(folder) = packages("javascript", "node_modules/ws/package.json") else {
        return;
    };
    let script = folder.join("spoke.mjs");
    std::fs::copy(docs("spoke.mjs"), &script).expect("copied");
    let dev = Dev::start();
    let (key, id) = key(&dev);
    let mut node = Command::new("node");
    let node = node.arg(&script).env("ALKHUB_URL", &dev.url).env("ALKHUB_TOKEN", key);
    let mut spoke = Program::start("node".to_owned(), node);
    registered(&dev, "demo.reverse", &spoke);

    assert_eq!(dev.world.ok(&["call", "demo.reverse", "\"hello\""]), "olleh\n");
    let line = dev.world.fails(7, &["call", "demo.reverse", "\"\""]);
    assert!(line.contains("nothing to reverse"), "{line}");
    takes_the_largest_input(&dev, "demo.reverse", &format!("\"{}\"", "x".repeat(LARGEST - 2)), None);
    stops_at_an_abort(&dev, "demo.ticks", &mut spoke);
    ends_with_its_key(&dev, &id, &mut spoke);
}

#[test]
fn the_spoke_in_python_answers_stops_and_ends() {
    let Some(folder) = packages("python", "websockets/asyncio/client.py") else {
        return;
    };
    let dev = Dev::start();
    let (key, id) = key(&dev);
    let mut python = Command::new("python3");
    let python = python
        .arg(docs("spoke.py"))
        .env("PYTHONPATH", &folder)
        .env("ALKHUB_URL", &dev.url)
        .env("ALKHUB_TOKEN", key);
    let mut spoke = Program::start("python".to_owned(), python);
    registered(&dev, "demo.sum", &spoke);

    assert_eq!(dev.world.ok(&["call", "demo.sum", "[1, 2, 3.5]"]), "6.5\n");
    let line = dev.world.fails(7, &["call", "demo.sum", "[1, \"a\"]"]);
    assert!(line.contains("unsupported operand"), "{line}");
    let ones = "1,".repeat(LARGEST / 2 - 2);
    takes_the_largest_input(&dev, "demo.sum", &format!("[{ones}1]"), Some(LARGEST / 2 - 1));
    stops_at_an_abort(&dev, "demo.count", &mut spoke);
    ends_with_its_key(&dev, &id, &mut spoke);
}

#[test]
fn the_spoke_over_this_repository_answers() {
    let dev = Dev::start();
    let file = docs("spoke.yaml").display().to_string();
    let _spoke = dev.offer(&["--file", &file]);

    let log = dev.world.ok(&["call", "git.log", "1"]);
    assert_eq!(log.lines().count(), 1, "{log}");
    let found = dev.world.ok(&["call", "files.search", "\"[workspace.lints.rust]\""]);
    assert!(found.contains("Cargo.toml:"), "{found}");
    let nowhere = format!("\"{} {}\"", "no such text", "in this repository");
    assert_eq!(dev.world.ok(&["call", "files.search", &nowhere]), "\n");

    for outside in ["\"/etc\"", "\"..\"", "\"docs/../..\""] {
        let line = dev.world.fails(7, &["call", "files.watch", outside]);
        assert!(line.contains("is not in the repository"), "{outside}: {line}");
    }
    // In the repository, but where its own walk does not go.
    let watched = tempfile::tempdir_in(repository().join("target")).expect("a folder");
    let changed = watched.path().join("changed.txt");
    let watched = watched
        .path()
        .strip_prefix(repository())
        .expect("in it")
        .display()
        .to_string();
    let mut changes = dev
        .world
        .start(&["call", "files.watch", &format!("{watched:?}"), "--output", "json"]);
    let line = crate::fixture::wait("a change", || {
        std::fs::write(&changed, format!("{:?}", std::time::SystemTime::now())).expect("ours");
        changes
            .out()
            .lines()
            .find(|line| line.contains("changed.txt"))
            .map(str::to_owned)
            .ok_or_else(|| changes.err())
    });
    assert!(line.starts_with("{\"path\":\"changed.txt\""), "{line}");
    assert_eq!(changes.interrupt().code(), Some(130));
}

#[test]
fn the_spoke_and_the_client_in_rust_talk_to_each_other() {
    let target = Path::new(env!("CARGO_BIN_EXE_alkhub"))
        .parent()
        .expect("a folder")
        .to_owned();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "alkhub-sdk", "--examples"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{built:?}");
    let dev = Dev::start();
    let key_file = dev.world.data().join("admin.key");
    let example = |name: &str| {
        let mut command = Command::new(target.join("examples").join(name));
        command.arg(&dev.url).arg(&key_file);
        Program::start(name.to_owned(), &mut command)
    };
    let mut spoke = example("spoke");
    spoke.notes("offering shop.price");

    let mut client = example("client");
    let status = client.ended();

    let said = client.err();
    assert!(status.success(), "{said}");
    for line in [
        "7 costs 700 cents",
        "SOLD_OUT",
        "counted [3, 2, 1, 0]",
        "event on shop.opened:main-street",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(spoke.interrupt().success());
}
