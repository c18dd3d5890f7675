//! `alkhub dev` when something that it needs is away, closed or dead: it says what, and what helps.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use alkhub_test_support::skip;
use nix::sys::signal::{Signal, kill};

use crate::dev::postmaster;
use crate::fixture::{Dev, World, wait};

/// Starts a hub that cannot become ready, and returns its output.
fn in_vain(world: &World, more: &[&str]) -> String {
    let data = world.data().display().to_string();
    let output = world.run(&[&["dev", "--data", &data, "--listen", "127.0.0.1:0"], more].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("hunter2"), "a password is shown: {said}");
    said
}

#[test]
fn redis_that_is_away_is_named_soon_and_at_the_end() {
    let world = World::new();
    let url = "redis://me:hunter2@127.0.0.1:9/0";

    let said = in_vain(&world, &["--redis-url", url, "--wait", "4s"]);

    let waiting = said.lines().find(|line| line.starts_with("waiting for "));
    let waiting = waiting.unwrap_or_else(|| panic!("nothing is waited for: {said}"));
    assert!(waiting.starts_with("waiting for Redis at 127.0.0.1:9: "), "{said}");
    assert_eq!(
        waiting.to_lowercase().matches("connection refused").count(),
        1,
        "{said}"
    );
    assert_eq!(said.matches("waiting for").count(), 1, "{said}");
    let last = said.lines().last().expect("a line");
    assert!(
        last.starts_with("alkhub: not ready after 4s: Redis at 127.0.0.1:9: "),
        "{said}"
    );
    assert!(last.contains("--redis-url"), "what helps: {said}");
    assert!(
        !world.data().join("data/postmaster.pid").exists(),
        "the database ended too"
    );
}

#[test]
fn postgres_that_is_away_is_named_soon_and_at_the_end() {
    let world = World::new();
    let url = "postgres://me:hunter2@127.0.0.1:9/alkhub";

    let said = in_vain(&world, &["--database-url", url, "--wait", "4s"]);

    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("waiting for Postgres at 127.0.0.1:9: "), "{said}");
    assert!(lines[0].to_lowercase().contains("connection refused"), "{said}");
    assert!(
        lines[1].starts_with("alkhub: not ready after 4s: Postgres at 127.0.0.1:9: "),
        "{said}"
    );
    assert!(lines[1].contains("--database-url"), "what helps: {said}");
}

#[test]
fn a_folder_that_postgres_cannot_enter_is_left_as_it_was() {
    if !nix::unistd::geteuid().is_root() {
        skip("Postgres runs as ourselves: it can enter every folder of ours");
        return;
    }
    let world = World::new();
    let closed = world.path().join("closed");
    std::fs::create_dir_all(closed.join("empty")).expect("ours");
    std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("ours");

    for folder in ["new/deep", "empty"] {
        let data = closed.join(folder).display().to_string();
        let line = world.fails(1, &["dev", "--data", &data, "--listen", "127.0.0.1:0"]);
        assert!(line.contains("cannot enter") && line.contains("closed"), "{line}");
    }

    assert!(!closed.join("new").exists(), "the folders that it made are gone");
    let left = std::fs::read_dir(closed.join("empty")).expect("it was there before");
    assert_eq!(left.count(), 0, "nothing is left in a folder that was there");
}

#[test]
fn a_private_postgres_that_dies_is_started_again_and_told_of() {
    let mut dev = Dev::start();
    let first = postmaster(&dev.world);

    kill(first, Signal::SIGKILL).expect("it runs");

    dev.program
        .notes("the private Postgres died (SIGKILL): starting it again");
    dev.program.notes("the private Postgres runs again");
    assert_ne!(postmaster(&dev.world), first);
    wait("the hub to use it", || {
        let output = dev
            .world
            .run(&["keys", "create", "after", "--scope", "operations:read"]);
        output
            .status
            .success()
            .then_some(())
            .ok_or_else(|| format!("{output:?}"))
    });
    let world = dev.stop();
    assert!(
        !world.data().join("data/postmaster.pid").exists(),
        "the new one is ended too"
    );
}

#[test]
fn a_private_postgres_that_does_not_start_again_ends_the_hub() {
    let mut dev = Dev::start();
    let database = dev.world.data().join("data");
    std::fs::rename(database.join("global"), database.join("global.away")).expect("ours");

    kill(postmaster(&dev.world), Signal::SIGKILL).expect("it runs");
    let status = dev.program.ended();

    let said = dev.program.err();
    assert_eq!(status.code(), Some(1), "{said}");
    let last = said.lines().last().expect("a line");
    assert!(
        last.starts_with("alkhub: the private Postgres died (SIGKILL) and does not start: "),
        "{said}"
    );
}
