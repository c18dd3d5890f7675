//! Words: the name of a public type means one thing in the whole workspace.
//!
//! Public means visible to the whole crate or to others: `pub` and `pub(crate)`. A second type of the same name needs a
//! row in docs/GLOSSARY.md, with a meaning for each; a row that is no longer needed is refused, so that the list
//! shrinks.

use std::collections::BTreeMap;
use std::fs;

use super::{none, root, sources};

const GLOSSARY: &str = "docs/GLOSSARY.md";

/// The rows of one of the glossary's tables of names: each name, and how many meanings it has.
fn rows(glossary: &str, heading: &str) -> BTreeMap<String, usize> {
    let section = glossary.split(&format!("\n## {heading}\n")).nth(1);
    let section = section.unwrap_or_else(|| panic!("{GLOSSARY} has no section `{heading}`"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut rows = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let name = cells.next().unwrap_or_default().trim_matches('`').to_owned();
        let meanings = cells
            .next()
            .unwrap_or_default()
            .split(" · ")
            .filter(|meaning| !meaning.is_empty());
        assert!(
            rows.insert(name, meanings.count()).is_none(),
            "{GLOSSARY} has two rows of one name: {row}"
        );
    }
    rows
}

/// The type that a line of code declares for its whole crate or beyond.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let rest = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) "))?;
    let name = ["struct ", "enum ", "trait ", "type ", "union "]
        .iter()
        .find_map(|kind| rest.strip_prefix(kind))?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[test]
fn a_public_name_means_one_thing() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (number, line) in source.production().enumerate() {
            if let Some(name) = declared(line) {
                let place = format!("{}:{}", source.path, number + 1);
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
    }
    assert!(
        places.len() > 300,
        "only {} types found: is the search right?",
        places.len()
    );
    let glossary = fs::read_to_string(root().join(GLOSSARY)).expect("the glossary");
    let shared = rows(&glossary, "Names that every crate may have");
    let doubles = rows(&glossary, "Names with more than one meaning");
    let mut faults = Vec::new();
    for (name, places) in places.iter().filter(|(name, _)| !shared.contains_key(*name)) {
        let listed = doubles.get(name).copied();
        if places.len() != listed.unwrap_or(1) {
            let meanings = listed.map_or_else(|| "no row".to_owned(), |meanings| format!("{meanings} meanings"));
            faults.push(format!(
                "{name}: {GLOSSARY} has {meanings}; declared at {}",
                places.join(", ")
            ));
        }
    }
    for name in shared
        .keys()
        .chain(doubles.keys())
        .filter(|name| places.get(*name).map_or(0, Vec::len) < 2)
    {
        faults.push(format!("{name}: its row in {GLOSSARY} is not needed any more"));
    }

    none(
        &faults,
        "rename a public type whose name another has, or give each meaning in the glossary's table",
    );
}

#[test]
fn the_names_of_a_table_are_read_with_their_meanings() {
    let glossary = "# G\n\n## A\n\n| name | meanings | why |\n|---|---|---|\n| `X` | `a`: one · `b`: two | - |\n\n## B\n| `Y` | z | |\n";

    assert_eq!(rows(glossary, "A"), BTreeMap::from([("X".to_owned(), 2)]));
    for (line, name) in [
        ("pub struct Link<T> {", Some("Link")),
        ("    pub(crate) enum End {", Some("End")),
        ("pub type Items = Vec<u8>;", Some("Items")),
        ("pub(super) struct Inner;", None),
        ("struct Inner;", None),
        ("pub fn f() {", None),
    ] {
        assert_eq!(declared(line), name, "{line}");
    }
}
