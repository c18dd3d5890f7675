//! Headers: the root of each crate says what it promises, what it never does and which crates of alkhub it uses; and
//! these match `EDGES`, the crate's manifest and the table in docs/ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{EDGES, none, root};

const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

/// What the last part of a header says if there are no such crates.
const NO_OTHER: &str = "Uses no other crate of alkhub";

/// The name of a crate as pages spell it.
fn short(name: &str) -> String {
    name.trim_start_matches("hub-").to_owned()
}

fn allowed() -> BTreeMap<&'static str, BTreeSet<String>> {
    let edges = EDGES.iter();
    edges
        .map(|(folder, uses)| (*folder, uses.iter().map(|name| short(name)).collect()))
        .collect()
}

/// The header of a crate, without the comment marks.
fn header(folder: &str) -> String {
    let file = ["src/lib.rs", "src/main.rs"].map(|file| root().join(folder).join(file));
    let file = file.iter().find(|file| file.exists());
    let text = file.map(|file| fs::read_to_string(file).expect("a source is UTF-8"));
    let text = text.unwrap_or_else(|| panic!("{folder} has no root"));
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    lines
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// What is in backticks, except inside parentheses.
fn quoted(text: &str) -> BTreeSet<String> {
    let parts = text
        .split('(')
        .map(|part| part.split_once(')').map_or(part, |(_, rest)| rest));
    let plain: String = parts.collect();
    plain.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The crates that a header says its crate uses, from the sentence that begins with `Uses`.
fn uses(header: &str) -> Option<BTreeSet<String>> {
    let at = header.find("\nUses ")? + 1;
    let sentence = header[at..].split(".\n").next()?.split(". ").next()?;
    (sentence.starts_with(NO_OTHER) || sentence.contains('`')).then(|| quoted(sentence))
}

/// What is wrong with the parts of a header.
fn faults_of_parts(header: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for part in ["Promises", "Never"] {
        let mut lines = header.lines().skip_while(|line| !line.starts_with(part)).skip(1);
        if !lines.next().is_some_and(|line| line.starts_with("- ")) {
            faults.push(format!("no list below `{part}`"));
        }
    }
    if uses(header).is_none() {
        faults.push(
            "no paragraph that begins with `Uses` and names crates in backticks, or says that there are none"
                .to_owned(),
        );
    }
    faults
}

/// The crates in the table of docs/ARCHITECTURE.md, with what they use.
fn table(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let section = page.split("\n## The crates\n").nth(1).expect("a section on crates");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let folder = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        let uses = cells.last()?.split(", ").filter(|name| *name != "–");
        Some((folder.to_owned(), uses.map(str::to_owned).collect()))
    })
    .collect()
}

#[test]
fn every_crate_says_what_it_promises_what_it_never_does_and_what_it_uses() {
    let mut faults = Vec::new();
    for (folder, allowed) in allowed() {
        let header = header(folder);
        let parts = faults_of_parts(&header);
        faults.extend(parts.iter().map(|fault| format!("{folder}: {fault}")));
        if let Some(uses) = uses(&header).filter(|uses| *uses != allowed) {
            faults.push(format!("{folder} says that it uses {uses:?}, and may use {allowed:?}"));
        }
    }

    none(
        &faults,
        "the root of a crate begins with what it promises, never does and uses",
    );
}

#[test]
fn the_table_of_crates_and_the_manifests_have_the_edges_that_are_checked() {
    let page = fs::read_to_string(root().join(ARCHITECTURE)).expect("the page is there");
    let mut table = table(&page);
    let mut faults = Vec::new();
    for (folder, allowed) in allowed() {
        let row = table.remove(folder);
        if row.as_ref() != Some(&allowed) {
            faults.push(format!(
                "{ARCHITECTURE}: {folder} uses {row:?}, and may use {allowed:?}"
            ));
        }
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a crate has a manifest");
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or(&manifest);
        let named = dependencies.lines().filter_map(|line| line.strip_prefix("alkhub-"));
        let named = named.map(|line| short(line.split(['.', ' ', '=']).next().unwrap_or_default()));
        let named: BTreeSet<String> = named.collect();
        let unused = allowed.difference(&named);
        faults.extend(unused.map(|name| format!("{folder} does not use {name}")));
    }
    // The test harness may use everything.
    table.remove("tests");
    faults.extend(
        table
            .keys()
            .map(|folder| format!("{ARCHITECTURE} has {folder}, which is no crate")),
    );

    none(&faults, "what a crate may use, it uses, and the table says so");
}

#[test]
fn the_files_on_the_ways_through_the_crates_are_there() {
    let page = fs::read_to_string(root().join(ARCHITECTURE)).expect("the page is there");
    let named = quoted(&page.replace(['(', ')'], " "));
    let files: Vec<&String> = named.iter().filter(|name| name.ends_with(".rs")).collect();
    let is_there = |name: &str| root().join(name).exists() || root().join("hub").join(name).exists();
    let missing = files.iter().filter(|name| !is_there(name));
    let faults: Vec<String> = missing.map(|name| format!("{ARCHITECTURE}: {name}")).collect();

    assert!(
        files.len() > 60,
        "only {} files found: is the search right?",
        files.len()
    );
    none(
        &faults,
        "a file is named by its path, seen from the root or from `hub/`",
    );
}

#[test]
fn a_header_is_read_by_its_parts() {
    let whole = "What it is.\n\nPromises, mostly\n- This.\n\nNever\n- That.\n\nUses `a` (for `x`'s sake), `b`\nand `c`. Not `d`.\n";

    assert_eq!(faults_of_parts(whole), Vec::<String>::new());
    assert_eq!(uses(whole), Some(["a", "b", "c"].map(str::to_owned).into()));
    assert_eq!(uses("It.\n\nUses no other crate of alkhub.\n"), Some(BTreeSet::new()));
    assert_eq!(uses("It.\n\nUses whatever it likes.\n"), None);
    assert_eq!(faults_of_parts("It.\n\nNever\nThat.\n").len(), 3);
}
