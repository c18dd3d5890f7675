//! The items that an outbox hands to its reader.

use alkhub_protocol::CloseCode;
use bytes::Bytes;

/// The next thing for the writer to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutgoingItem {
    /// Send this message.
    Message(Bytes),
    /// Send this message, the end of a stream or the abort of a call, so that the peer does not read it together with what
    /// was sent before. It waits, and is charged, until [`Outgoing::sends`](super::Outgoing::sends) says that it goes.
    Last(Bytes),
    /// Send a close frame and end the connection; nothing follows.
    Close {
        /// Why, as the close frame says it.
        code: CloseCode,
        /// One sentence, at most 123 bytes.
        reason: String,
    },
}
