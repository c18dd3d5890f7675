//! How large expressions may be.

/// How deep the nodes of an expression nest.
pub(super) const DEPTH: usize = 64;

/// What is left for the expressions of a pipeline.
#[derive(Debug)]
pub(crate) struct ExpressionRoom {
    /// The text of one, in bytes.
    pub(crate) expression_bytes: usize,
    /// The nodes of those that are yet to come.
    pub(crate) nodes: usize,
    /// The compiled patterns of those that are yet to come, in bytes.
    pub(crate) pattern_bytes: usize,
}
