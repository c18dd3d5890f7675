//! Why a link was not made.

use std::io;
use std::time::Duration;

/// Why a link was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody listens there, or the connection broke.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The other end is not a hub, or is one of another version.
    #[error("the other end speaks no WebSocket of a hub: {0}")]
    Foreign(&'static str),
    /// Another hub has that address by now.
    #[error("another hub answers at that address")]
    AnotherHub,
    /// The other end cannot prove that it has the secret.
    #[error("the other end does not have the secret of this Hub")]
    Secret,
    /// The other end does not accept this hub's proof.
    #[error("the other hub refuses this one: its secret is another one, or it ends")]
    Refused,
    /// It took too long.
    #[error("there was no link within {0:?}")]
    Late(Duration),
}

// === impl Error ===

impl Error {
    /// The error in one word.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "connection",
            Self::Foreign(_) | Self::AnotherHub => "foreign",
            Self::Secret => "secret",
            Self::Refused => "refused",
            Self::Late(_) => "late",
        }
    }
}
