//! An error and its causes in one line: for a log, for a terminal, for the message of a failed call.
//!
//! Invariants
//! - Text that the line already contains is not repeated: many errors repeat their source.

use std::error::Error;
use std::fmt;
use std::iter::successors;

/// Prints an error and its causes, from the outermost to the innermost.
#[derive(Clone, Copy)]
pub struct Chain<'a> {
    error: &'a (dyn Error + 'static),
    ending: fn(&(dyn Error + 'static)) -> Option<String>,
}

// === impl Chain ===

impl<'a> Chain<'a> {
    /// The chain that begins with an error.
    pub fn of(error: &'a (dyn Error + 'static)) -> Self {
        Self {
            error,
            ending: |_| None,
        }
    }

    /// Lets the first error for which `ending` returns a text end the chain with that text, in place of its own message
    /// and its causes.
    #[must_use]
    pub fn ending(self, ending: fn(&(dyn Error + 'static)) -> Option<String>) -> Self {
        Self { ending, ..self }
    }
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        for error in successors(Some(self.error), |&error| error.source()) {
            let last = (self.ending)(error);
            let ended = last.is_some();
            let text = last.unwrap_or_else(|| error.to_string());
            if !line.contains(&text) {
                if !line.is_empty() {
                    line.push_str(": ");
                }
                line.push_str(&text);
            }
            if ended {
                break;
            }
        }
        f.write_str(&line)
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chain").field(&self.error).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the file")]
    struct Open(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start: {0}")]
    struct Start(#[source] Open);

    fn denied() -> Start {
        Start(Open(io::Error::other("permission denied")))
    }

    #[test]
    fn each_cause_is_said_once() {
        let line = Chain::of(&denied()).to_string();

        assert_eq!(line, "cannot start: cannot open the file: permission denied");
    }

    #[test]
    fn an_ending_takes_the_place_of_what_lies_below() {
        let error = denied();
        let chain = Chain::of(&error).ending(|error| error.is::<Open>().then(|| "ask the owner".to_owned()));

        assert_eq!(chain.to_string(), "cannot start: cannot open the file: ask the owner");
    }
}
