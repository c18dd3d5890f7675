//! Holds the messages of other hubs to this one until they are read.
//!
//! Invariants
//! - What waits for the reader is bounded in messages and bytes. What does not fit is dropped, counted, and reported to
//!   the reader as [`Inbound::Missed`]: nobody waits for a slow reader, least of all the link to Redis. Links from pod
//!   to pod are not read while the inbox is at least half full: each has a socket of its own that holds messages back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// The most messages that may wait for their reader.
const MESSAGES: usize = 16_384;

/// The most bytes that they may have, not counting the first message.
const BYTES: usize = 64 * 1024 * 1024;

/// The most messages that are read at once.
const BATCH: usize = 256;

/// What the inbox has for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// Messages.
    Some,
    /// Messages are missing at this point: more came than this hub could take.
    Missed,
}

/// Reads the messages that other hubs relay to this one.
#[derive(Debug)]
pub(crate) struct Inbox {
    messages: mpsc::Receiver<Bytes>,
    held: Arc<AtomicUsize>,
    missed: Arc<AtomicBool>,
}

/// Where a link puts the messages that it receives. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct InboxSender {
    messages: mpsc::Sender<Bytes>,
    held: Arc<AtomicUsize>,
    missed: Arc<AtomicBool>,
}

/// Creates an inbox and its sender.
pub(crate) fn channel() -> (InboxSender, Inbox) {
    let (sender, messages) = mpsc::channel(MESSAGES);
    let (held, missed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let sender = InboxSender {
        messages: sender,
        held: held.clone(),
        missed: missed.clone(),
    };
    (sender, Inbox { messages, held, missed })
}

// === impl Inbox ===

impl Inbox {
    /// Appends the next messages to `into`, or reports that some are missing; `None` when the hub has ended. Dropping
    /// the future loses nothing.
    pub(crate) async fn recv(&mut self, into: &mut Vec<Bytes>) -> Option<Inbound> {
        // Messages were dropped because this queue was full, so it holds a message that wakes the reader.
        if self.missed.swap(false, Ordering::AcqRel) {
            return Some(Inbound::Missed);
        }
        let before = into.len();
        if self.messages.recv_many(into, BATCH).await == 0 {
            return None;
        }
        let bytes = into[before..].iter().map(Bytes::len).sum();
        self.held.fetch_sub(bytes, Ordering::AcqRel);
        Some(Inbound::Some)
    }
}

// === impl InboxSender ===

impl InboxSender {
    /// Whether at least half of what may wait is waiting: from here on, senders that can be held back are.
    pub(crate) fn is_half_full(&self) -> bool {
        self.messages.capacity() < MESSAGES / 2 || self.held.load(Ordering::Relaxed) > BYTES / 2
    }

    /// Queues a message, or notes that it is missing. Never waits.
    pub(crate) fn push(&self, message: Bytes) -> bool {
        let size = message.len();
        let held = self.held.fetch_add(size, Ordering::AcqRel);
        let fits = held == 0 || held + size <= BYTES;
        if fits && self.messages.try_send(message).is_ok() {
            return true;
        }
        self.held.fetch_sub(size, Ordering::AcqRel);
        self.missed.store(true, Ordering::Release);
        false
    }
}
