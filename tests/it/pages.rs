//! Pages: the end-to-end run covers their commands that need a cluster, and the table of scopes is complete.

use std::path::Path;

use alkhub_protocol::scope;
use alkhub_test_support::pages::{self, Place};

/// If the run does not know a page, nobody runs the page's blocks.
#[test]
fn every_block_for_a_cluster_is_walked_by_the_end_to_end_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("below the workspace");
    let walk = std::fs::read_to_string(root.join("tests/e2e/pages.rs")).expect("the walk");
    let mut count = 0;
    for page in pages::pages(root) {
        let blocks = pages::blocks(root, &page).unwrap_or_else(|faults| panic!("{}", faults.join("\n")));
        for block in blocks.iter().filter(|block| block.place == Place::Cluster) {
            let station = format!("(\"{}\", \"{}\")", page.display(), block.when);

            assert!(
                walk.contains(&station),
                "{}:{} is run by nobody: {station}",
                page.display(),
                block.line
            );
            count += 1;
        }
    }
    assert!(count > 40, "only {count} blocks were found");
}

/// The only text about scopes that is not generated from the list of scopes.
#[test]
fn the_page_on_security_has_every_scope() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("below the workspace");
    let page = std::fs::read_to_string(root.join("docs/SECURITY.md")).expect("the page");

    for form in scope::OWN.iter().flat_map(|own| own.forms) {
        assert!(page.contains(&format!("`{form}`")), "docs/SECURITY.md has no `{form}`");
    }
}
