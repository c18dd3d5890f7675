//! Why there is no link.

use std::io;
use std::time::Duration;

/// Why a link was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody listens there, or the connection broke.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// What answers, or dials, is no hub, or one of another version.
    #[error("the other end speaks no WebSocket of a hub: {0}")]
    Foreign(&'static str),
    /// Another hub has that address by now.
    #[error("another hub answers at that address")]
    AnotherHub,
    /// The other end has no proof of the secret.
    #[error("the other end does not have the secret of this Hub")]
    Secret,
    /// The other end takes this hub's proof for none.
    #[error("the other hub refuses this one: its secret is another one, or it ends")]
    Refused,
    /// It took too long.
    #[error("there was no link within {0:?}")]
    Late(Duration),
}

// === impl Error ===

impl Error {
    /// In a word.
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
