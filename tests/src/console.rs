//! What a run is told by the person who watches it, and tells that person.

use std::io::Write as _;

use anyhow::{Context as _, Result};

/// One line for the person who watches; a test harness would keep what is printed to itself.
///
/// # Panics
/// Standard output is closed.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("standard output is open");
}

/// What an environment variable says, unless it is empty.
pub fn setting(name: &str) -> Option<String> {
    let text = std::env::var_os(name)?.into_string().ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// The same as a number.
///
/// # Errors
/// It says something else.
pub fn number(name: &str) -> Result<Option<u64>> {
    setting(name)
        .map(|number| number.parse().with_context(|| format!("{name} is a number")))
        .transpose()
}
