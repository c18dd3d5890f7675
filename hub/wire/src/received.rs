//! What a decoder makes of a peer's bytes: what was sent, or what was wrong with it.

use bytes::Bytes;

use crate::frame::MessageKind;

/// What a peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A complete message.
    Message {
        /// Text or binary.
        kind: MessageKind,
        /// Unmasked; valid UTF-8 if `kind` is text.
        data: Bytes,
    },
    /// A complete message over the limit, of which only the beginning is kept.
    TooLarge {
        /// Text or binary.
        kind: MessageKind,
        /// Its beginning.
        head: Bytes,
        /// Its length.
        size: usize,
    },
    /// A ping, to be answered with a pong of the same payload.
    Ping(Bytes),
    /// A pong, with its payload: an answer to a ping, or a sign of life.
    Pong(Bytes),
    /// The peer ends the connection; nothing is read after this.
    Close {
        /// Its reason, a number of RFC 6455, section 7.4; `None` if it gave none.
        code: Option<u16>,
    },
}

/// Why a connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Error {
    /// Which rule it broke.
    pub violation: Violation,
    /// What the peer did, for the close frame.
    pub reason: &'static str,
}

/// What a peer can do wrong. RFC 6455, section 7.4.1, has a close code for each, which the owner of the socket chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Frames that the RFC forbids.
    Protocol,
    /// Text, or the reason of a close, that is not UTF-8.
    NotUtf8,
    /// A message far over the limit: what follows is not read.
    TooLarge,
}

// === impl Received ===

impl Received {
    /// The content of a close frame.
    pub(crate) fn close(payload: &[u8]) -> Result<Self, Error> {
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return if payload.is_empty() {
                Ok(Self::Close { code: None })
            } else {
                Err(Error::protocol("a close frame carries no or at least two bytes"))
            };
        };
        let code = u16::from_be_bytes(*code);
        if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            return Err(Error::protocol("close code is not one that a peer may send"));
        }
        if std::str::from_utf8(reason).is_err() {
            return Err(Error {
                violation: Violation::NotUtf8,
                reason: "the reason for closing is not UTF-8",
            });
        }
        Ok(Self::Close { code: Some(code) })
    }
}

// === impl Error ===

impl Error {
    /// A text message that is not UTF-8.
    pub(crate) const NOT_UTF8: Self = Self {
        violation: Violation::NotUtf8,
        reason: "text is not UTF-8",
    };

    pub(crate) fn protocol(reason: &'static str) -> Self {
        Self {
            violation: Violation::Protocol,
            reason,
        }
    }
}
