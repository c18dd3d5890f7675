//! Regular expressions of `matches`: compiled once, from literals alone, and weighed.
//!
//! The engine takes time that is proportional to the text and to the size of the compiled pattern: nothing that an
//! author writes makes it exponential. So a pattern has a weight, and looking at a byte costs that much.

use regex::{Regex, RegexBuilder};

use crate::error::Flaw;

/// The size from which patterns are tried, in bytes.
const SMALLEST: usize = 2 * 1024;

/// The memory in which the engine may keep what it finds out about a text, in bytes, for each of its two caches.
const CACHE_BYTES: usize = 256 * 1024;

/// Bytes of a compiled pattern that cost one unit for each 16 bytes of text. With patterns that are as slow as can be
/// (`(a|b)*a(a|b){60}c`) a unit is some 100 ns.
const BYTES_PER_UNIT: usize = 64;

/// One pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    bytes: usize,
}

// === impl Pattern ===

impl Pattern {
    /// Compiles a pattern within a size.
    pub(super) fn compile(text: &str, most: usize) -> Result<Self, Flaw> {
        let mut bytes = SMALLEST.min(most.max(1));
        loop {
            let built = RegexBuilder::new(text)
                .size_limit(bytes)
                .dfa_size_limit(CACHE_BYTES)
                .nest_limit(32)
                .build();
            match built {
                Ok(regex) => return Ok(Self { regex, bytes }),
                Err(regex::Error::CompiledTooBig(_)) if bytes < most => bytes = (bytes * 2).min(most),
                Err(regex::Error::CompiledTooBig(_)) => {
                    return Err(Flaw::new(
                        "the pattern is too large when it is compiled",
                        format!(
                            "use fewer or smaller repetitions and classes (`[a-z]` is smaller than `\\w`): all patterns \
                             together may take {most} bytes"
                        ),
                    ));
                }
                Err(error) => {
                    let last = error.to_string();
                    let last = last.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    return Err(Flaw::new(
                        format!("the pattern is not a regular expression ({last})"),
                        "write it in the syntax of RE2; look-around and back-references do not exist there",
                    ));
                }
            }
        }
    }

    pub(super) fn text(&self) -> &str {
        self.regex.as_str()
    }

    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The units that a look at a text costs.
    pub(super) fn units(&self, text: &str) -> u64 {
        let sixteens = 1 + text.len() as u64 / 16;
        sixteens * (1 + (self.bytes / BYTES_PER_UNIT) as u64)
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}
