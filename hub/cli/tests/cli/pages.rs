//! Every command of the pages is run as it is written, in the order of the page, against a hub that `alkhub dev` runs.
//!
//! Each page has a machine of its own: a copy of the repository, and kernel namespaces in which the ports that pages
//! name are free and the hub's folder is unused. A command that keeps running (`alkhub offer`, a subscription) runs in
//! the background until the page ends; by then it must have printed something, and must not have failed. The blocks
//! marked `cluster` belong to the end-to-end run; [`alkhub_test_support::pages`] reads them all.

use std::path::Path;
use std::process::Command;

use alkhub_test_support::pages::{self, Block, Place};
use alkhub_test_support::skip;

use crate::examples::repository;
use crate::fixture::World;

/// Commands that do not end by themselves.
const RUNS_ON: [&str; 5] = [
    "alkhub offer ",
    "alkhub subscribe ",
    "alkhub calls --follow",
    "alkhub call files.watch ",
    "curl -sN ",
];

/// Longer than any page takes on a busy machine, in seconds.
const PAGE_LIMIT: &str = "400";

/// Creates a machine for the script that follows. It needs no network but loopback.
const MACHINE: &str = "mount -t tmpfs none /var/lib && ip link set lo up && exec bash \"$1\"";

/// Functions of the script; `$folder` is where outputs go.
const BEGIN: &str = r#"
set -o pipefail
hub= ; running=()
failed() { echo "$here: $1" >&2; cat "$2" >&2; echo "--- the hub:" >&2; cat "$folder/hub" >&2; exit 1; }
curl() { command curl --fail-with-body "$@"; }
# until_it WHAT OUTPUT PID COMMAND...: asks the command again and again while the process runs.
until_it() {
  local what=$1 output=$2 pid=$3; shift 3
  for _ in $(seq 1200); do
    ! "$@" || return 0
    kill -0 "$pid" 2>/dev/null || { wait "$pid" && return 0; failed "it ended before it $what" "$output"; }
    : > changed-by-the-test; sleep 0.05
  done
  failed "it never $what" "$output"
}
stop_hub() { kill -TERM "$hub"; wait "$hub" || failed "the hub ended badly" "$folder/hub"; hub=; }
start_hub() {
  [ -z "$hub" ] || stop_hub
  # Not left to the new one: until it has emptied the file, the one before seems to be ready.
  : >"$folder/hub"
  "$@" >"$folder/hub" 2>&1 & hub=$!
  until_it "was ready" "$folder/hub" "$hub" grep -q 'Ctrl-C stops' "$folder/hub"
}
runs_on() { running+=("$1 $2 $here"); until_it "said anything" "$2" "$1" test -s "$2"; }
still_well() {
  local one pid output
  for one in "${running[@]}"; do
    read -r pid output here <<<"$one"
    # One that has said why it fails is about to end.
    ! grep -q '^alkhub: ' "$output" || wait "$pid" || failed "it ended with $?" "$output"
    kill -0 "$pid" 2>/dev/null || wait "$pid" || failed "it ended with $?" "$output"
  done
}
here=start; start_hub alkhub dev
"#;

/// A page's blocks as one bash script, so that what a line sets is there for the next.
fn script(blocks: &[Block], folder: &Path) -> String {
    let mut script = format!("folder={}\n{BEGIN}", folder.display());
    let commands = blocks
        .iter()
        .filter(|block| block.place == Place::Machine)
        .flat_map(|block| block.commands.iter().map(|command| (&block.page, command)));
    for (page, command) in commands {
        let (place, output) = (
            format!("{}:{}", page.display(), command.line),
            format!("\"$folder/{}\"", command.line),
        );
        // A comment after the command would hide what follows.
        let text = command.text.trim();
        let bare = text.split("  #").next().unwrap_or(text).trim_end();
        let alone = bare.trim_end_matches('&').trim_end();
        script.push_str(&format!("here={place}\n"));
        if bare.starts_with("alkhub dev") {
            script.push_str(&format!("start_hub {bare}\n"));
        } else if alone != bare || RUNS_ON.iter().any(|begin| bare.starts_with(begin)) {
            script.push_str(&format!("{{ {alone}\n}} >{output} 2>&1 &\nruns_on $! {output}\n"));
        } else {
            script.push_str(&format!(
                "{{ {text}\n}} >{output} 2>&1 || failed \"it ended with $?\" {output}\n"
            ));
        }
    }
    script + "still_well\nstop_hub\n"
}

/// A copy of the repository as git knows it now, with its history and the programs under test.
fn copy_of_the_repository(to: &Path) {
    const COPY: &str = "git -c safe.directory='*' clone -q --shared \"$1\" \"$2\" && cd \"$1\" &&
        git -c safe.directory='*' ls-files -z | tar --null --ignore-failed-read -cf - -T - | tar -xf - -C \"$2\"";
    let status = Command::new("bash")
        .args(["-o", "pipefail", "-c", COPY, "copy"])
        .arg(repository())
        .arg(to)
        .status();
    assert!(status.expect("git and tar are there").success());
    let programs = Path::new(env!("CARGO_BIN_EXE_alkhub")).parent().expect("a folder");
    std::fs::create_dir(to.join("target")).expect("ours");
    std::os::unix::fs::symlink(programs, to.join("target/debug")).expect("ours");
}

fn run(page: &Path, blocks: &[Block]) -> Result<(), String> {
    let world = World::new();
    let copy = world.path().join("repository");
    copy_of_the_repository(&copy);
    let outputs = world.path().join("outputs");
    std::fs::create_dir(&outputs).expect("ours");
    let file = world.write("page.sh", &script(blocks, &outputs));
    let programs = copy.join("target/debug");
    let path = std::env::var_os("PATH").expect("there is a PATH");
    let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path))).expect("a PATH");
    let output = world
        .command(&[])
        .env_remove("XDG_STATE_HOME")
        .get_envs()
        .fold(&mut Command::new("timeout"), |command, (name, value)| match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        })
        .args([
            "--kill-after",
            "10",
            PAGE_LIMIT,
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
        ])
        .args(["--kill-child", "--mount-proc", "bash", "-c", MACHINE, "page", &file])
        .current_dir(&copy)
        .env("HOME", world.path())
        .env("PATH", path)
        .output()
        .expect("timeout and unshare are there");
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{}: {}: {}",
            page.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

#[test]
fn every_command_of_the_pages_runs_as_it_stands() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root makes a machine of its own for a page");
        return;
    }
    let (mut faults, mut ran) = (Vec::new(), Vec::new());

    for page in pages::pages(&repository()) {
        let blocks = match pages::blocks(&repository(), &page) {
            Ok(blocks) => blocks,
            Err(wrong) => {
                faults.extend(wrong);
                continue;
            }
        };
        if blocks.iter().any(|block| block.place == Place::Machine) {
            faults.extend(run(&page, &blocks).err());
            ran.push(page.display().to_string());
        }
    }

    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(
        ran,
        ["README.md", "docs/API.md", "docs/CLI.md", "docs/SDK.md"],
        "the pages for first use have commands"
    );
}

/// A page of these commands alone.
fn page_of(commands: &[&str]) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("```sh\n{}\n```\n", commands.join("\n"));
    std::fs::write(folder.path().join("p.md"), text).expect("ours");
    let page = Path::new("p.md");
    run(page, &pages::blocks(folder.path(), page).expect("a good page"))
}

#[test]
fn a_command_that_fails_or_ends_too_soon_is_named_with_its_line() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root makes a machine of its own for a page");
        return;
    }

    for (commands, says) in [
        (
            &["true", "(echo why >&2; exit 3)"][..],
            &["p.md:3", "ended with 3", "why"][..],
        ),
        (&["curl -s $ALKHUB_URL/none"], &["p.md:2"]),
        (&["alkhub offer nodot -- cat"], &["p.md:2", "namespace.operation"]),
        (&["false | true"], &["p.md:2"]),
    ] {
        let fault = page_of(commands).expect_err("it fails");
        for word in says {
            assert!(fault.contains(word), "{commands:?}: {word}: {fault}");
        }
    }
}
