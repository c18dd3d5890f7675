//! Why a pipeline is refused: where, why, and what to do about it.

use std::fmt;

/// Why a pipeline is refused.
///
/// ```
/// use alkhub_pipeline::{Pipeline, PipelineLimits};
///
/// let error = Pipeline::parse(br#"[{"take":10},{"filtr":"payload.ok"}]"#, &PipelineLimits::default()).unwrap_err();
///
/// assert_eq!(error.to_string(), "step 1: there is no step `filtr`: did you mean `filter`?");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// The way to the step, counted from 0: more than one number for a step within another, where the second number is
    /// that of the branch for `chain` and `join`. Empty if the fault is in no step.
    pub step: Vec<usize>,
    /// The step's name, if it has one that is known.
    pub name: Option<&'static str>,
    /// Where in the step's expression, counted from 1 in characters.
    pub position: Option<usize>,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub cure: String,
}

/// A fault before it is known in which step it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Where in the expression: a byte offset, until the reader of the pipeline makes it the number of a character.
    pub(super) position: Option<usize>,
    pub(super) reason: String,
    pub(super) cure: String,
}

// === impl Flaw ===

impl Flaw {
    pub(super) fn new(reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            position: None,
            reason: reason.into(),
            cure: cure.into(),
        }
    }

    pub(super) fn at(mut self, position: Option<usize>) -> Self {
        self.position = position;
        self
    }

    pub(super) fn in_step(self, step: Vec<usize>, name: Option<&'static str>) -> Error {
        Error {
            step,
            name,
            position: self.position,
            reason: self.reason,
            cure: self.cure,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step: Vec<String> = self.step.iter().map(usize::to_string).collect();
        match (step.is_empty(), self.name) {
            (true, _) => {}
            (false, None) => write!(f, "step {}: ", step.join("."))?,
            (false, Some(name)) => write!(f, "step {} (`{name}`): ", step.join("."))?,
        }
        if let Some(position) = self.position {
            write!(f, "at character {position}: ")?;
        }
        write!(f, "{}: {}", self.reason, self.cure)
    }
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > 32 {
        return None;
    }
    let ranked = known.iter().map(|other| (distance(word, other), *other));
    let (distance, other) = ranked.min()?;
    (distance <= 1 + other.len() / 4).then_some(other)
}

/// The cure for a word that is not known.
pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    nearest(word, known).map_or_else(
        || format!("write one of {}", known.join(", ")),
        |other| format!("did you mean `{other}`?"),
    )
}

/// The beginning of a text from outside, as a message may repeat it.
pub(super) fn excerpt(text: &str, most: usize) -> String {
    let short: String = text.chars().take(most).filter(|c| !c.is_control()).collect();
    if short.len() < text.len() {
        format!("{short}…")
    } else {
        short
    }
}

/// How many letters differ, where two that are swapped count once.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().filter(|c| *c != '_').collect();
    let b: Vec<char> = b.to_lowercase().chars().filter(|c| *c != '_').collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}
