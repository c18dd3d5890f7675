//! One published event, shared by everybody who reads it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use alkhub_protocol::envelope::encode;
use alkhub_protocol::{RawJson, Topic};
use bytes::Bytes;

/// The cost of a queued event besides its text, in bytes.
const OVERHEAD_BYTES: usize = 64;

/// An event and its encoded forms. All deliveries share this value: it is encoded once, however many read it.
#[derive(Debug)]
pub struct Publication {
    /// Where it was published.
    pub topic: Topic,
    text: Bytes,
    framed: OnceLock<Bytes>,
    live: Option<Arc<WaitingBytes>>,
}

/// The bytes of all events of a hub that somebody has not read yet, each counted once, however many wait for it.
#[derive(Debug)]
pub(crate) struct WaitingBytes {
    bytes: AtomicUsize,
    limit: usize,
}

/// How many copies of an event's bytes there are: its text and its frame.
const COPIES: usize = 2;

// === impl Publication ===

impl Publication {
    /// An event on a topic. Without a payload its envelope has none either, which differs from `null`.
    pub fn new(topic: Topic, payload: Option<&RawJson>) -> Self {
        let text = encode(topic.event_type(), topic.id(), payload, None);
        Self {
            topic,
            text,
            framed: OnceLock::new(),
            live: None,
        }
    }

    /// An event on a topic that counts among the waiting events of a hub for as long as it is kept.
    pub(crate) fn counted(topic: Topic, payload: Option<&RawJson>, live: &Arc<WaitingBytes>) -> Self {
        let mut publication = Self::new(topic, payload);
        live.bytes.fetch_add(publication.memory(), Ordering::Relaxed);
        publication.live = Some(Arc::clone(live));
        publication
    }

    /// Whether so much waits on its hub that lagging readers must drop events.
    pub(crate) fn is_pressed(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.bytes() > live.limit)
    }

    fn memory(&self) -> usize {
        COPIES * self.text.len() + OVERHEAD_BYTES
    }

    /// The envelope as JSON text, `{type, id, payload}`.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// The envelope framed for a connection's protocol: made for the first who asks, shared with the others.
    ///
    /// All connections must ask for the same frame; it is kept for one protocol only.
    pub fn framed(&self, frame: impl FnOnce(&Bytes) -> Bytes) -> &Bytes {
        self.framed.get_or_init(|| frame(&self.text))
    }

    /// How much it counts towards a queue's byte limit.
    pub(crate) fn weight(&self) -> usize {
        self.text.len() + OVERHEAD_BYTES
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        if let Some(live) = &self.live {
            live.bytes.fetch_sub(self.memory(), Ordering::Relaxed);
        }
    }
}

// === impl WaitingBytes ===

impl WaitingBytes {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicUsize::new(0),
            limit,
        })
    }

    /// Bytes now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}
