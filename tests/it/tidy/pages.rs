//! Pages: every hyperlink leads somewhere, and every page can be reached from the index.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{none, root};

/// The pages at the root and those of the changelog; the ones in `docs` are added to them.
const OTHERS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "RELEASING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "changelog.d/README.md",
];

/// Every Markdown file of `docs`.
fn docs() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the docs").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text without its code blocks and code spans: what looks like a hyperlink there is not one.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            let spans = line.split('`').step_by(2);
            prose.push_str(&spans.collect::<Vec<_>>().join("code"));
        }
        prose.push('\n');
    }
    prose
}

/// The anchors that a renderer assigns to the headings of a page.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
                .collect()
        })
        .collect()
}

/// What is wrong with a hyperlink's target on a page, if anything.
fn fault(page: &Path, text: &str, target: &str) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => page.to_owned(),
        file => page.parent().expect("a page lies in a folder").join(file),
    };
    if !path.exists() {
        return Some(format!("{target}: no such file"));
    }
    let there = match file {
        "" => text.to_owned(),
        _ => fs::read_to_string(&path).unwrap_or_default(),
    };
    let found = anchor.is_empty() || anchors(&there).iter().any(|known| known == anchor);
    (!found).then(|| format!("{target}: no such heading"))
}

/// The targets of a page's hyperlinks that lead into the repository, each with its line.
fn hyperlinks(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text).lines().enumerate() {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")) {
            found.push((number + 1, target.to_owned()));
        }
    }
    found
}

#[test]
fn every_hyperlink_in_the_docs_leads_somewhere() {
    let mut faults = Vec::new();
    let mut count = 0;
    for page in docs().into_iter().chain(OTHERS.iter().map(|page| root().join(page))) {
        let text = fs::read_to_string(&page).expect("a page is UTF-8");
        for (line, target) in hyperlinks(&text) {
            count += 1;
            if let Some(fault) = fault(&page, &text, &target) {
                faults.push(format!("{}:{line}: {fault}", page.display()));
            }
        }
    }

    assert!(count > 20, "only {count} hyperlinks found: is the search right?");
    none(&faults, "a relative hyperlink leads to a file, and to a heading in it");
}

#[test]
fn every_page_of_the_docs_is_found_from_their_index() {
    let index = root().join("docs/README.md").canonicalize().expect("docs/README.md");
    let mut reached = BTreeSet::from([index.clone()]);
    let mut next = vec![index];
    while let Some(page) = next.pop() {
        let text = fs::read_to_string(&page).expect("a page is UTF-8");
        for (_, target) in hyperlinks(&text) {
            let file = target.split('#').next().unwrap_or_default();
            let Ok(path) = page
                .parent()
                .expect("a page lies in a folder")
                .join(file)
                .canonicalize()
            else {
                continue; // The test of hyperlinks names it.
            };
            let is_page = path.extension().is_some_and(|extension| extension == "md");
            if is_page && reached.insert(path.clone()) {
                next.push(path);
            }
        }
    }
    let faults: Vec<String> = docs()
        .into_iter()
        .filter(|page| !page.canonicalize().is_ok_and(|page| reached.contains(&page)))
        .map(|page| page.display().to_string())
        .collect();

    none(
        &faults,
        "no hyperlinks lead from docs/README.md to a page: add it there, or a decision to docs/decisions/README.md",
    );
}
