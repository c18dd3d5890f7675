//! Relays messages to the inboxes of hubs, and holds what came for this one.
//!
//! Invariants
//! - What waits for the reader is bounded in messages and bytes. What does not fit is dropped, counted, and told to the
//!   reader as [`Inbound::Missed`]: nobody waits for a slow reader, the link to Redis least of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use alkhub_protocol::{Delivered, HubId};
use alkhub_redis::{Redis, Undelivered};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::Error;

/// Messages that wait for their reader at most.
const MESSAGES: usize = 16_384;

/// Their bytes at most, the first message aside.
const BYTES: usize = 64 * 1024 * 1024;

/// What comes from other hubs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A message.
    Message(Bytes),
    /// Messages are missing here: more came than this hub took.
    Missed,
}

/// Reads what other hubs relay to this one.
#[derive(Debug)]
pub struct Inbox {
    messages: mpsc::Receiver<Bytes>,
    held: Arc<AtomicUsize>,
    missed: Arc<AtomicBool>,
}

/// Where the link puts what it receives. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct InboxSender {
    messages: mpsc::Sender<Bytes>,
    held: Arc<AtomicUsize>,
    missed: Arc<AtomicBool>,
}

/// The way to other hubs: a closed set, which a link between pods joins later.
#[derive(Debug)]
enum Transport {
    /// There is no other hub.
    Alone,
    /// Through the inboxes on Redis.
    Redis(Redis),
}

/// Sends to the inboxes of hubs.
#[derive(Debug)]
pub(crate) struct Relay {
    hub: HubId,
    transport: Transport,
    own: InboxSender,
    returned: mpsc::Sender<Undelivered>,
}

/// An inbox and where it is filled.
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
    /// The next message, or the sign that some are missing; `None` when the hub has ended. Dropping the future loses
    /// nothing.
    pub async fn recv(&mut self) -> Option<Inbound> {
        // What is missing was dropped because this queue was full: there is a message to wake for.
        if self.missed.swap(false, Ordering::AcqRel) {
            return Some(Inbound::Missed);
        }
        let message = self.messages.recv().await?;
        self.held.fetch_sub(message.len(), Ordering::AcqRel);
        Some(Inbound::Message(message))
    }

    /// An inbox that nothing comes to.
    pub(crate) fn closed() -> Self {
        channel().1
    }
}

// === impl InboxSender ===

impl InboxSender {
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

// === impl Relay ===

impl Relay {
    pub(crate) fn new(
        hub: &HubId,
        redis: Option<Redis>,
        own: InboxSender,
        returned: mpsc::Sender<Undelivered>,
    ) -> Self {
        Self {
            hub: hub.clone(),
            transport: redis.map_or(Transport::Alone, Transport::Redis),
            own,
            returned,
        }
    }

    /// A message to this hub itself goes straight to its inbox.
    pub(crate) fn send(&self, to: &HubId, message: Bytes) -> Result<(), Error> {
        if *to == self.hub {
            return if self.own.push(message) {
                Ok(())
            } else {
                Err(Error::Full)
            };
        }
        match &self.transport {
            Transport::Redis(redis) => Ok(redis.relay(to, message)?),
            Transport::Alone => self
                .returned
                .try_send(Undelivered {
                    hub: to.clone(),
                    message,
                    delivered: Delivered::No,
                })
                .map_err(|_| Error::Alone),
        }
    }
}
