//! Input from, and output to, the person who watches a run.

use std::io::Write as _;

use anyhow::{Context as _, Result};

/// Prints a line for the person who watches; a test harness would capture ordinary output.
///
/// # Panics
/// Standard output is closed.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("standard output is open");
}

/// The value of an environment variable, unless it is empty.
pub fn setting(name: &str) -> Option<String> {
    let text = std::env::var_os(name)?.into_string().ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// The same as a number.
///
/// # Errors
/// It is not a number.
pub fn number(name: &str) -> Result<Option<u64>> {
    setting(name)
        .map(|number| number.parse().with_context(|| format!("{name} is a number")))
        .transpose()
}
