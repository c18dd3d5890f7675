//! A pipeline as a client writes it: read, checked and compiled once.

use std::sync::Arc;

use crate::error::Error;
use crate::limits::PipelineLimits;
use crate::step::{Compiled, write_line};

mod options;
mod read;

/// A pipeline that a hub can run. Cloning shares it.
///
/// ```
/// use alkhub_pipeline::{Pipeline, PipelineLimits};
///
/// let limits = PipelineLimits::default();
/// let one = Pipeline::parse(br#"[{"filter":"payload.n>1"},{"take":2}]"#, &limits)?;
/// let same = Pipeline::parse(br#"[ {"pipe": [{"filter": "payload.n > 1"}]}, {"take": 2} ]"#, &limits)?;
///
/// assert_eq!(one.canonical(), r#"[{"filter":"payload.n > 1"},{"take":2}]"#);
/// assert_eq!(one, same);
/// # Ok::<(), alkhub_pipeline::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pipeline(Arc<Compiled>);

// === impl Pipeline ===

impl Pipeline {
    /// Reads and compiles a list of steps.
    ///
    /// # Errors
    /// [`Error`] says which step cannot be used, why, and what to do about it.
    pub fn parse(json: &[u8], limits: &PipelineLimits) -> Result<Self, Error> {
        let (line, share) = read::read(json, limits)?;
        let mut text = String::new();
        write_line(&line, &mut text);
        Ok(Self(Arc::new(Compiled {
            line,
            limits: limits.clone(),
            share,
            text,
        })))
    }

    /// The text that all equal pipelines have: without white space and nested `pipe`s, with every option, and with
    /// expressions in one form. It is a pipeline itself.
    pub fn canonical(&self) -> &str {
        &self.0.text
    }

    pub(super) fn compiled(&self) -> &Arc<Compiled> {
        &self.0
    }
}

impl PartialEq for Pipeline {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for Pipeline {}

#[cfg(test)]
mod tests;
