//! Why a schema cannot be used.

use alkhub_protocol::json::tree::TreeError;

use crate::shape::ShapeError;

/// Largest schema that is compiled, in bytes.
pub(crate) const SCHEMA_LIMIT_BYTES: usize = 256 * 1024;

/// Why a schema cannot be used. The text follows the name of the schema's field.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its text is too long.
    #[error("is larger than {SCHEMA_LIMIT_BYTES} bytes")]
    TooLarge,
    /// It has a member twice, or text that is not Unicode.
    #[error("cannot be read: {0}")]
    Tree(#[from] TreeError),
    /// It compares with a number that would be rounded.
    #[error("has the number {0}, which 64 bits would round: no limit may have more digits than they hold")]
    Number(String),
    /// It is not a JSON Schema.
    #[error("is not a JSON Schema: at `{path}`: {message}")]
    Invalid {
        /// JSON pointer into the schema.
        path: String,
        /// The rule that it breaks.
        message: String,
    },
    /// A check against it could cost more than the size of the value allows.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// It was not compiled, or not to the end, because it takes more than the limit.
    #[error("takes at least {bytes} bytes when it is compiled")]
    Over {
        /// The least that it takes.
        bytes: usize,
    },
}
