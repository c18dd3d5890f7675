//! What a release needs: well-formed fragments, a command that joins them, and the same version everywhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{none, root};

/// The kinds listed in changelog.d/README.md, in the order of the changelog.
const KINDS: &[&str] = &["breaking", "security", "added", "changed", "fixed"];

/// The most bytes in a fragment, and in one of its lines.
const FRAGMENT_LIMIT: usize = 600;
const LINE_LIMIT: usize = 120;

/// What is wrong with a fragment.
fn faults_of(name: &str, text: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let mut parts = name.split('.');
    let (topic, kind, rest) = (
        parts.next().unwrap_or_default(),
        parts.next(),
        parts.collect::<Vec<_>>(),
    );
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if topic.is_empty() || !topic.chars().all(lower) || rest != ["md"] || !kind.is_some_and(|k| KINDS.contains(&k)) {
        faults.push("its name is not `what-changed.KIND.md` with a kind of changelog.d/README.md");
    }
    if text.len() > FRAGMENT_LIMIT || text.lines().any(|line| line.chars().count() > LINE_LIMIT) {
        faults.push("it has more than 600 bytes, or a line of more than 120 characters");
    }
    if !text.ends_with(".\n") {
        faults.push("it does not end with a full stop and one line feed");
    }
    let structure = |line: &str| line.trim() != line || line.is_empty() || line.starts_with(['#', '-', '|', '>']);
    if text.is_empty() || text.lines().any(structure) {
        faults.push("it is not one paragraph without indentation");
    }
    faults
}

#[test]
fn every_fragment_of_the_changelog_is_well_formed() {
    let folder = root().join("changelog.d");
    let mut faults = Vec::new();
    for entry in fs::read_dir(&folder).expect("changelog.d").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "README.md" {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            faults.extend(faults_of(&name, &text).iter().map(|fault| format!("{name}: {fault}")));
        }
    }

    none(&faults, "a fragment is as changelog.d/README.md says");
}

#[test]
fn a_fragment_that_is_not_well_formed_is_named() {
    assert!(faults_of("a-list.added.md", "`GET /v1/spokes` answers\nin pages.\n").is_empty());
    for (name, text) in [
        ("A.added.md", "Text.\n"),
        ("a.new.md", "Text.\n"),
        ("a.added.txt", "Text.\n"),
        ("added.md", "Text.\n"),
        ("a.added.md", "Text\n"),
        ("a.added.md", "Text."),
        ("a.added.md", ""),
        ("a.added.md", "# Title.\n"),
        ("a.added.md", "One.\n\nTwo.\n"),
        ("a.added.md", "- Item.\n"),
    ] {
        assert!(!faults_of(name, text).is_empty(), "{name}: {text:?}");
    }
}

/// Runs `deploy/changelog.sh` on a folder with this changelog and these fragments; returns the resulting changelog.
fn joined(version: &str, changelog: &str, fragments: &[(&str, &str)]) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let d = folder.path().join("changelog.d");
    fs::create_dir(&d).expect("a folder");
    fs::write(folder.path().join("CHANGELOG.md"), changelog).expect("a file");
    for (name, text) in fragments {
        fs::write(d.join(name), text).expect("a file");
    }
    let output = Command::new(root().join("deploy/changelog.sh"))
        .arg(version)
        .arg(folder.path())
        .output()
        .expect("bash runs");
    let left = fs::read_dir(&d).expect("a folder").count();
    assert_eq!(
        left,
        if output.status.success() { 0 } else { fragments.len() },
        "{output:?}"
    );
    let text = fs::read_to_string(folder.path().join("CHANGELOG.md")).expect("a file");
    output.status.success().then_some(text)
}

#[test]
fn fragments_are_joined_by_kind_under_the_version_and_are_gone_then() {
    let fragments = [
        ("b.fixed.md", "Mended.\n"),
        ("a.added.md", "New, in\ntwo lines.\n"),
        ("z.breaking.md", "Gone.\n"),
    ];
    let sections = "\n### Breaking\n\n- Gone.\n\n### Added\n\n- New, in\n  two lines.\n\n### Fixed\n\n- Mended.\n";

    let new = joined("0.2.0", "# Changelog\n\n## 0.1.0 (2026-01-01)\n\nOld.\n", &fragments).expect("it is joined");
    let open = joined("0.2.0", "# Changelog\n\n## 0.2.0 (unreleased)\n\nText.\n", &fragments).expect("it is joined");

    let date = new.split("## 0.2.0 (").nth(1).and_then(|rest| rest.split(')').next());
    let date = date.expect("a heading with the date");
    assert_eq!(date.len(), "2026-01-01".len(), "{new}");
    assert_eq!(
        new,
        format!("# Changelog\n\n## 0.2.0 ({date})\n{sections}\n## 0.1.0 (2026-01-01)\n\nOld.\n")
    );
    assert_eq!(open, format!("# Changelog\n\n## 0.2.0 ({date})\n\nText.\n{sections}"));
}

#[test]
fn a_release_of_nothing_or_of_a_version_that_was_released_is_refused() {
    let changelog = "# Changelog\n\n## 0.1.0 (2026-01-01)\n\nOld.\n";

    assert_eq!(joined("0.2.0", changelog, &[]), None);
    assert_eq!(joined("0.1.0", changelog, &[("a.added.md", "New.\n")]), None);
    assert_eq!(joined("0.2", changelog, &[("a.added.md", "New.\n")]), None);
}

/// What follows `begin` on a line of a file, without quotes.
fn value(path: &Path, begin: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let line = text.lines().find_map(|line| line.trim().strip_prefix(begin));
    let line = line.unwrap_or_else(|| panic!("{} has no `{begin}`", path.display()));
    line.trim().trim_matches('"').to_owned()
}

#[test]
fn crates_charts_and_examples_have_one_version() {
    let root = root();
    let version = value(&root.join("Cargo.toml"), "version =");
    let mut found = Vec::new();
    for chart in ["charts/alkhub/Chart.yaml", "charts/alkhub-crds/Chart.yaml"] {
        for field in ["version:", "appVersion:"] {
            found.push((format!("{chart}, {field}"), value(&root.join(chart), field)));
        }
    }
    for (path, begin, end) in [
        ("deploy/compose.yaml", "alkhub/hub:${ALKHUB_VERSION:-", "}"),
        ("deploy/images/Dockerfile.hub", "alkhub/hub:", " "),
        ("deploy/images/Dockerfile.operator", "alkhub/operator:", " "),
        ("docs/OPERATIONS.md", "(`alkhub/operator:", "`"),
        ("docs/OPERATIONS.md", "\"spec\":{\"version\":\"", "\""),
    ] {
        let text = fs::read_to_string(root.join(path)).expect("a file of the repository");
        let rest = text
            .split(begin)
            .nth(1)
            .unwrap_or_else(|| panic!("{path} has no `{begin}`"));
        found.push((path.to_owned(), rest.split(end).next().unwrap_or_default().to_owned()));
    }
    let faults: Vec<String> = found
        .into_iter()
        .filter(|(_, there)| *there != version)
        .map(|(place, there)| format!("{place} {there}"))
        .collect();

    none(&faults, &format!("the version is {version}, as in Cargo.toml"));
}
