//! Dependencies: each one that a manifest names is used by the code that it is for.
//!
//! `cargo machete` asks the same but sees less: it knows neither which code is for tests nor the workspace's table. A
//! dependency that is needed although no code names it stands below a comment that begins with `# Not named` and gives
//! the reason.

use std::collections::BTreeSet;
use std::fs;

use super::{EDGES, Source, none, root, sources};

/// One line of a manifest's dependency table.
struct Dependency {
    name: String,
    /// Whether it is for tests only.
    dev: bool,
    /// Whether it is taken from the workspace, with nothing added.
    plain: bool,
    /// Whether a comment says why no code names it.
    excused: bool,
}

fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let (mut table, mut excused) = ("", false);
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            table = line;
        } else if line.starts_with('#') {
            excused |= line.starts_with("# Not named");
            continue;
        } else if let Some((key, value)) = line.split_once('=')
            && ["[dependencies]", "[dev-dependencies]", "[workspace.dependencies]"].contains(&table)
        {
            let key = key.trim();
            let (name, of) = key.split_once('.').unwrap_or((key, ""));
            found.push(Dependency {
                name: name.to_owned(),
                dev: table == "[dev-dependencies]",
                plain: of == "workspace" && value.trim() == "true",
                excused,
            });
        }
        excused = false;
    }
    found
}

/// Whether code names a crate: in a path, a `use`, or a text such as `#[serde(with = "humantime_serde")]`.
fn names(code: &str, dependency: &str) -> bool {
    let name = dependency.replace('-', "_");
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(&name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        !before.ends_with(part)
            && !before.ends_with(':')
            && ["::", ";", " as ", "\""].iter().any(|end| after.starts_with(end))
    })
}

/// The code of a crate: the part that is built for its users, and all of it.
fn code(folder: &str, sources: &[Source]) -> (String, String) {
    let (mut production, mut all) = (String::new(), String::new());
    let within = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    let inner: Vec<&str> = EDGES
        .iter()
        .map(|(other, _)| *other)
        .filter(|other| within(other, folder))
        .collect();
    for source in sources {
        if !within(&source.path, folder) || inner.iter().any(|inner| within(&source.path, inner)) {
            continue;
        }
        let place = &source.path[folder.len() + 1..];
        let built = ["src/", "bench/", "rebalance/", "soak/"]
            .iter()
            .any(|begin| place.starts_with(begin));
        if built && !place.ends_with("tests.rs") {
            production.extend(source.production().flat_map(|line| [line, "\n"]));
        }
        all += &source.text;
    }
    (production, all)
}

#[test]
fn every_dependency_is_used_by_the_code_that_it_is_for() {
    let sources = sources();
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for folder in EDGES.iter().map(|(folder, _)| *folder).chain(["tests"]) {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a crate has a manifest");
        let (production, all) = code(folder, &sources);
        let dependencies = dependencies(&manifest);
        for dependency in &dependencies {
            let name = &dependency.name;
            let again = || dependencies.iter().any(|other| !other.dev && other.name == *name);
            let fault = match (names(&production, name), names(&all, name)) {
                (named, anywhere) if dependency.excused => {
                    (named || anywhere).then_some("is named, against its comment")
                }
                (_, false) => Some("is used nowhere"),
                (false, true) if !dependency.dev => Some("is used by tests alone: a dev-dependency"),
                _ if dependency.dev && dependency.plain && again() => Some("stands in both tables"),
                _ => None,
            };
            faults.extend(fault.map(|fault| format!("{folder}/Cargo.toml: {name} {fault}")));
            used.insert(name.clone());
        }
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    let unused = dependencies(&workspace)
        .into_iter()
        .filter(|dependency| !used.contains(&dependency.name));
    faults.extend(unused.map(|dependency| format!("Cargo.toml: no crate uses {}", dependency.name)));

    assert!(
        used.len() > 50,
        "only {} dependencies found: is the search right?",
        used.len()
    );
    none(&faults, "a dependency is used, and stands in the table of what uses it");
}

#[test]
fn a_crate_is_found_by_its_name_and_not_by_a_part_of_one() {
    for named in [
        "use rand::Rng;",
        "rand::random()",
        "use rand;",
        "use rand as r;",
        "with = \"rand\"",
    ] {
        assert!(names(named, "rand"), "{named}");
    }
    assert!(names("use tokio_util::sync;", "tokio-util"));
    for other in [
        "use fastrand::u32;",
        "fastrand::x()",
        "let rand = 1 + 1",
        "crate::rand::x",
        "operand::",
    ] {
        assert!(!names(other, "rand"), "{other}");
    }
}
