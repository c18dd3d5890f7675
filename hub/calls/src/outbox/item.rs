//! What goes through an outbox, and what bounds it.

use bytes::Bytes;

/// How much one session may have waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: usize,
    /// Bytes of all messages together.
    pub bytes: usize,
}

/// The message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The peer does not read as fast as it is written to, or the budget of its key is full.
    #[error("the session's queue is full")]
    Queue,
    /// The session has ended or is ending.
    #[error("the session is closed")]
    Closed,
}

/// What the writer does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutgoingItem {
    /// Send this message.
    Message(Bytes),
    /// Send this message, the end of a stream or the abort of a call, so that the peer does not read it together with what
    /// was sent before. It waits, and is charged, until [`Outgoing::sends`](super::Outgoing::sends) says that it goes.
    Last(Bytes),
    /// Send a close frame and end the connection; nothing follows.
    Close {
        /// The WebSocket's close code.
        code: u16,
        /// One sentence, at most 123 bytes.
        reason: String,
    },
}
