//! Expressions: the language is CEL, its grammar the crate `cel`'s, and the evaluation is metered.
//!
//! `cel` evaluates without a bound on time or memory, and what an expression costs cannot be told from its text: each of
//! `['x'].map(a, a + a).map(b, b + b)…` doubles a string. So an expression becomes a tree of [`node`]s of our own, and
//! each node that is evaluated, each 16 bytes that one looks at and each byte that one builds is paid for from a
//! [`Meter`] (docs/decisions/0091-pipelines-are-metered.md). A test compares the results with those of `cel`.
//!
//! Invariants
//! - Evaluation ends within the units of its meter, and builds no more than its bytes.
//! - It is as deep as [`room::DEPTH`] and the value together, and never panics.
//! - A result depends on nothing but the variables: no clock, no randomness, no order of a hash map.

use std::fmt;

mod compile;
mod evaluate;
mod functions;
mod meter;
mod node;
mod operators;
mod pattern;
mod room;
mod source;
mod value;
mod write;

use node::Node;

pub(crate) use meter::{Halt, Meter};
pub(crate) use room::ExpressionRoom;
pub(crate) use value::CelValue;
pub(crate) use write::Form;

use crate::error::Flaw;

/// One compiled expression.
#[derive(Clone, PartialEq)]
pub(super) struct Expression {
    root: Node,
    /// Its canonical text.
    text: String,
    /// How many variables it knows.
    variables: usize,
    /// Whether it looks at the third variable, which for steps is the payload.
    pub(super) reads_payload: bool,
}

// === impl Expression ===

impl Expression {
    /// Compiles a text in which `variables` are known.
    pub(super) fn compile(source: &str, variables: &[&str], room: &mut ExpressionRoom) -> Result<Self, Flaw> {
        let root = compile::compile(source, variables, room)?;
        let mut names = variables.iter().map(|name| (*name).to_owned()).collect();
        let mut text = String::new();
        root.write(&mut names, &mut text);
        let reads_payload = compile::reads(&root, 2);
        Ok(Self {
            root,
            text,
            variables: variables.len(),
            reads_payload,
        })
    }

    /// The text that all equal expressions have.
    pub(super) fn canonical(&self) -> &str {
        &self.text
    }

    /// Its value, where the variables have these values.
    pub(super) fn evaluate<'a>(
        &'a self,
        variables: &mut Vec<CelValue<'a>>,
        meter: &mut Meter,
    ) -> Result<CelValue<'a>, Halt> {
        // Those of macros come after them.
        debug_assert_eq!(variables.len(), self.variables);
        evaluate::evaluate(&self.root, variables, meter)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
