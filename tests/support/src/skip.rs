//! Skipping what this machine cannot test: aloud, counted, and never where `CI` is set.
//!
//! The test harness counts a test that returns early as passed, and keeps what it printed to itself.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Tests of this program that were skipped so far.
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says on standard error that the running test is skipped, and why; the test returns then.
///
/// # Panics
/// Where `CI` is set: there, nothing may be skipped.
pub fn skip(why: &str) {
    let in_ci = std::env::var_os("CI").is_some();
    // The harness captures what macros print, not what is written.
    tell(&mut io::stderr().lock(), in_ci, why);
}

fn tell(to: &mut impl Write, in_ci: bool, why: &str) {
    assert!(!in_ci, "with CI set nothing may be skipped: {why}");
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // The harness names a test's thread after the test.
    let current = thread::current();
    let test = current.name().unwrap_or("a test");
    let line = format!("SKIPPED {test}: {why} ({count} skipped in this program)\n");
    to.write_all(line.as_bytes()).expect("standard error is open");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_test_says_its_name_and_why() {
        let mut said = Vec::new();

        tell(&mut said, false, "no moon");
        tell(&mut said, false, "no sun");

        let said = String::from_utf8(said).expect("UTF-8");
        assert!(
            said.contains("a_skipped_test_says_its_name_and_why: no moon (1 skipped"),
            "{said}"
        );
        assert!(said.contains("no sun (2 skipped"), "{said}");
    }

    #[test]
    #[should_panic(expected = "nothing may be skipped: no moon")]
    fn where_ci_is_set_skipping_fails() {
        tell(&mut Vec::new(), true, "no moon");
    }
}
