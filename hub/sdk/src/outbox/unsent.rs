//! The entries of the queue to the hub: what each weighs, which of them may have to be sent again, and how each is
//! written on the wire.

use alkhub_queue::Weigh;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::kept::KeptSession;

/// How the answers to calls begin, as they are encoded here.
const ANSWERS: [&[u8]; 2] = [b"{\"type\":\"call.responded\"", b"{\"type\":\"call.error\""];

/// What waits to be sent.
#[derive(Debug)]
pub(super) enum Unsent {
    Message(Bytes),
    /// A refusal, of which only so many may wait.
    Refusal(Bytes),
    Ping,
    /// Tells the hub what was received so far.
    Ack,
}

// === impl Unsent ===

impl Unsent {
    /// The message, if it is one that the hub counts and that may have to be sent again.
    pub(super) fn message(&self) -> Option<&Bytes> {
        match self {
            Self::Message(message) | Self::Refusal(message) => Some(message),
            Self::Ping | Self::Ack => None,
        }
    }

    /// Notes that it is sent; returns it as it is on the wire.
    pub(super) fn leaves(self, kept: &mut KeptSession) -> Message {
        let message = match self {
            Self::Ping => return Message::Ping(Bytes::new()),
            Self::Ack => kept.ack(),
            Self::Message(message) | Self::Refusal(message) => {
                kept.sent(&message);
                message
            }
        };
        text(message)
    }
}

impl Weigh for Unsent {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) | Self::Refusal(message) => message.len(),
            Self::Ping | Self::Ack => 0,
        }
    }
}

/// Whether one of our messages answers a call.
pub(super) fn is_answer(message: &Bytes) -> bool {
    ANSWERS.iter().any(|begins| message.starts_with(begins))
}

/// One of our messages as it is on the wire.
pub(crate) fn text(message: Bytes) -> Message {
    Message::Text(Utf8Bytes::try_from(message).expect("what is encoded here is UTF-8"))
}
