//! One published event, shared by all who read it.

use std::sync::OnceLock;

use alkhub_protocol::envelope::encode;
use alkhub_protocol::{RawJson, Topic};
use bytes::Bytes;

/// What a queued event costs beside its text, in bytes.
const OVERHEAD_BYTES: usize = 64;

/// An event and its encoded forms. Every delivery of it shares this value: it is encoded once, however many read it.
#[derive(Debug)]
pub struct Publication {
    /// Where it was published.
    pub topic: Topic,
    /// The payload as it arrived; `None` when the envelope had none, which differs from `null`.
    pub payload: Option<RawJson>,
    text: Bytes,
    framed: OnceLock<Bytes>,
}

// === impl Publication ===

impl Publication {
    /// An event on a topic.
    pub fn new(topic: Topic, payload: Option<RawJson>) -> Self {
        let text = encode(topic.event_type(), topic.id(), payload.as_ref(), None);
        Self {
            topic,
            payload,
            text,
            framed: OnceLock::new(),
        }
    }

    /// The envelope as JSON text, `{type, id, payload}`.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// The envelope in the frame of a connection's protocol: made by the first who asks, shared by the others.
    ///
    /// All connections must ask for the same frame; it is kept for one protocol only.
    pub fn framed(&self, frame: impl FnOnce(&Bytes) -> Bytes) -> &Bytes {
        self.framed.get_or_init(|| frame(&self.text))
    }

    /// What it counts in the byte limit of a queue.
    pub(crate) fn weight(&self) -> usize {
        self.text.len() + OVERHEAD_BYTES
    }
}
