//! The options of one step, each read with its range.

use std::ops::RangeInclusive;
use std::time::Duration;

use alkhub_protocol::json::tree::{Members, Tree};
use alkhub_protocol::time;

use crate::error::{Flaw, did_you_mean, excerpt};

/// The shortest time that a step may be asked to wait: a shorter one would be work without events.
const SHORTEST: Duration = Duration::from_millis(10);

/// The options of one step.
pub(super) struct Options<'t> {
    members: Option<&'t Members<'t>>,
}

// === impl Options ===

impl<'t> Options<'t> {
    /// The members of an object, of which only these may be there.
    pub(super) fn of(tree: &'t Tree<'t>, known: &[&str]) -> Result<Self, Flaw> {
        let Tree::Object(members) = tree else {
            return Err(Flaw::new(
                format!("its options are {}", kind(tree)),
                format!("write an object with {}", known.join(", ")),
            ));
        };
        match members.iter().find(|(name, _)| !known.contains(&name.as_ref())) {
            Some((name, _)) => Err(Flaw::new(
                format!("there is no option `{}`", excerpt(name, 40)),
                did_you_mean(name, known),
            )),
            None => Ok(Self { members: Some(members) }),
        }
    }

    /// No options.
    pub(super) fn none() -> Self {
        Self { members: None }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'t Tree<'t>> {
        self.members.and_then(|members| members.get(name))
    }

    pub(super) fn text(&self, name: &str) -> Result<&'t str, Flaw> {
        let value = self.get(name).ok_or_else(|| {
            Flaw::new(
                format!("the option `{name}` is missing"),
                "add it: it is an expression in a string",
            )
        })?;
        expression(value)
    }

    pub(super) fn count(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Flaw> {
        self.get(name).map(|value| count(name, value, range)).transpose()
    }

    pub(super) fn time(&self, name: &str, longest: Duration) -> Result<Option<Duration>, Flaw> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let read = match value {
            Tree::String(text) => time::parse(text),
            _ => None,
        };
        let Some(read) = read else {
            return Err(Flaw::new(
                format!("`{name}` is no time"),
                "write a number with a unit in a string: \"500ms\", \"10s\", \"5m\", \"1h\"",
            ));
        };
        if (SHORTEST..=longest).contains(&read) {
            Ok(Some(read))
        } else {
            Err(Flaw::new(
                format!("`{name}` is out of range"),
                format!("write 10ms to {}s", longest.as_secs()),
            ))
        }
    }
}

/// A whole number in a range.
pub(super) fn count(name: &str, tree: &Tree<'_>, range: RangeInclusive<usize>) -> Result<usize, Flaw> {
    let read = match tree {
        Tree::Number(number) => number.as_str().parse().ok(),
        _ => None,
    };
    read.filter(|read| range.contains(read)).ok_or_else(|| {
        Flaw::new(
            format!(
                "`{name}` is {}",
                if read.is_some() {
                    "out of range"
                } else {
                    "no whole number"
                }
            ),
            format!("write one from {} to {}", range.start(), range.end()),
        )
    })
}

/// The text of an expression.
pub(super) fn expression<'t>(tree: &'t Tree<'t>) -> Result<&'t str, Flaw> {
    match tree {
        Tree::String(text) => Ok(text),
        other => Err(Flaw::new(
            format!("its expression is {}", kind(other)),
            "write it in a string, such as \"payload.status == 'open'\"",
        )),
    }
}

/// What a value is, for messages.
pub(super) fn kind(tree: &Tree<'_>) -> &'static str {
    match tree {
        Tree::Null => "null",
        Tree::Bool(_) => "a bool",
        Tree::Number(_) => "a number",
        Tree::String(_) => "a string",
        Tree::Array(_) => "an array",
        Tree::Object(_) => "an object",
    }
}
