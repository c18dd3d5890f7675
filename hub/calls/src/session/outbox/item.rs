//! The items that an outbox hands to its reader.

use alkhub_protocol::CloseCode;
use bytes::Bytes;

/// The next thing for the writer to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutgoingItem {
    /// Send this message.
    Message(Bytes),
    /// Send this message, the end of a stream or the abort of a call, in such a way that the peer does not read it
    /// together with what was sent before. It waits, and is charged, until [`Outgoing::sends`](super::Outgoing::sends)
    /// says that it goes out.
    Last(Bytes),
    /// Send a close frame and end the connection; nothing follows.
    Close {
        /// The close code of the frame.
        code: CloseCode,
        /// The reason in one sentence, of at most 123 bytes.
        reason: String,
    },
}
