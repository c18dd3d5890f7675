//! What is to be sent to the hub, in order and within bounds.
//!
//! The queue may outlive the socket: if the hub keeps the session, it goes on over another socket ([`crate::session`]).
//!
//! Invariants
//! - Messages are sent in the order in which they were queued.
//! - Whatever was queued before [`Outbox::close`] is sent before the queue ends.
//! - Refusals of what the hub asks for are bounded: if the hub does not read them, [`Outbox::stalled`] reports it.

mod hub;
#[cfg(test)]
mod tests;
mod unsent;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;

use alkhub_queue::{Full, Limits, Queue};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use self::unsent::Unsent;
pub(crate) use self::unsent::text;
use crate::kept::KeptSession;

/// How much may wait to be sent; beyond that senders wait.
const OUTBOX_LIMITS: Limits = Limits {
    items: 65_536,
    bytes: 4 * 1024 * 1024,
};

/// How much is sent at once: a part of what is kept of unacknowledged messages.
const BATCH: Limits = Limits {
    items: 256,
    bytes: 64 * 1024,
};

/// Refusals that may wait to be sent.
const REFUSALS: usize = 4_096;

/// The queue of one socket; its clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox(Arc<Shared>);

/// The socket is gone; the message was not sent.
#[derive(Debug)]
pub(crate) struct Gone;

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Notified when there is room again.
    room: Notify,
    /// Notified when the hub asks for the session to move to another one.
    moves: Notify,
    /// Cancelled when more refusals wait than are allowed.
    is_stalled: CancellationToken,
    /// How many hubs take connections; 0 until a hub has said so.
    hubs: watch::Sender<u32>,
    /// Whether the hub accepts hashes of specifications; `None` until it has said so.
    hashes: watch::Sender<Option<bool>>,
    /// How often something came from the hub.
    heard: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Ended when the socket is to close.
    queue: Queue<Unsent>,
    /// How many of the queued messages are refusals.
    refusals: usize,
    /// The close frame is on its way, or the session has ended.
    is_gone: bool,
    /// The answers that the hub of an ended session may lack.
    left: Vec<Bytes>,
    /// What is known of the session at the hub.
    kept: KeptSession,
}

// === impl Outbox ===

impl Outbox {
    /// Queues a message, waiting for room. If the future is dropped, nothing was queued.
    pub(crate) async fn send(&self, message: Bytes) -> Result<(), Gone> {
        loop {
            let room = self.0.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut waiting = self.0.waiting.lock();
                // The last message may exceed the limit by its own size: otherwise a large one would wait while small
                // ones overtake it.
                match waiting.queue.room(0, OUTBOX_LIMITS) {
                    Ok(()) => {
                        let waiter = waiting.queue.add(Unsent::Message(message));
                        drop(waiting);
                        waiter.wake();
                        return Ok(());
                    }
                    Err(Full::Ended) => return Err(Gone),
                    Err(Full::Queue) => {}
                }
            }
            room.await;
        }
    }

    /// Queues a short message, of which there is at most one per running call or topic, whether there is room or not.
    /// This works even while the socket is closing, until the close frame has been sent.
    pub(crate) fn push(&self, message: Bytes) {
        self.add(Unsent::Message(message));
    }

    /// Queues the refusal of something that the hub asked for. The hub may ask as often as it likes: if too many
    /// refusals wait, it is not reading, and the socket is given up.
    pub(crate) fn refuse(&self, message: Bytes) {
        {
            let mut waiting = self.0.waiting.lock();
            if waiting.refusals < REFUSALS {
                waiting.refusals += 1;
            } else {
                drop(waiting);
                self.0.is_stalled.cancel();
                return;
            }
        }
        self.add(Unsent::Refusal(message));
    }

    /// Whether messages are accepted.
    pub(crate) fn is_open(&self) -> bool {
        !self.0.waiting.lock().queue.has_ended()
    }

    /// Lets the socket close once everything queued is sent.
    pub(crate) fn close(&self) {
        let waiter = self.0.waiting.lock().queue.end();
        waiter.wake();
        self.0.room.notify_waiters();
    }

    /// Sends the hub a ping.
    pub(crate) fn ping(&self) {
        self.add(Unsent::Ping);
    }

    /// Resolves when the hub asks for more without reading the answers.
    pub(crate) async fn stalled(&self) {
        self.0.is_stalled.cancelled().await;
    }

    fn add(&self, unsent: Unsent) {
        let mut waiting = self.0.waiting.lock();
        if !waiting.is_gone {
            let waiter = waiting.queue.add(unsent);
            drop(waiting);
            waiter.wake();
        }
    }

    /// Ends the queue: nothing more is accepted and what waits is dropped, except for the answers to calls, which stay
    /// for [`Outbox::take_left`].
    pub(crate) fn end(&self) {
        let mut waiting = self.0.waiting.lock();
        waiting.is_gone = true;
        let answers = waiting.answers();
        waiting.left.extend(answers);
        let (waiter, unsent) = (waiting.queue.end(), waiting.queue.take_all());
        drop(unsent);
        waiting.kept.forget_sent();
        drop(waiting);
        waiter.wake();
        self.0.room.notify_waiters();
    }

    /// The answers to calls that the hub may lack, in order; while the session has no connection, none of them is sent.
    pub(crate) fn answers(&self) -> Vec<Bytes> {
        self.0.waiting.lock().answers()
    }

    /// [`Outbox::answers`] of a session that has ended.
    pub(crate) fn take_left(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.0.waiting.lock().left)
    }

    /// Resolves when the queue is to close.
    pub(crate) async fn closed(&self) {
        loop {
            let changed = self.0.room.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.is_open() {
                return;
            }
            changed.await;
        }
    }

    /// Takes up to [`BATCH`] from the queue to be sent now; from then on it counts as sent. Nothing is taken while as
    /// much is unacknowledged as can be kept. `None` when closing and nothing is left.
    pub(crate) async fn batch(&self) -> Option<Vec<Message>> {
        let batch = poll_fn(|context| {
            let mut waiting = self.0.waiting.lock();
            let may_leave = !waiting.kept.is_full() || waiting.queue.has_ended();
            if !waiting.queue.is_empty() && may_leave {
                let waiting = &mut *waiting;
                let mut batch = Vec::new();
                let begin = waiting.queue.bytes();
                while batch.len() < BATCH.items
                    && begin - waiting.queue.bytes() < BATCH.bytes
                    && (batch.is_empty() || !waiting.kept.is_full())
                    && let Some(unsent) = waiting.queue.pop()
                {
                    waiting.refusals -= usize::from(matches!(unsent, Unsent::Refusal(_)));
                    batch.push(unsent.leaves(&mut waiting.kept));
                }
                return Poll::Ready(Some(batch));
            }
            if waiting.queue.has_ended() && waiting.queue.is_empty() {
                waiting.is_gone = true;
                return Poll::Ready(None);
            }
            waiting.queue.wait(context);
            Poll::Pending
        })
        .await;
        self.0.room.notify_waiters();
        batch
    }
}

// === impl Waiting ===

impl Waiting {
    /// The answers to calls that the hub may lack, in order.
    fn answers(&self) -> Vec<Bytes> {
        let unsent = self.queue.waiting().filter_map(Unsent::message);
        let answers = self.kept.unreceived().chain(unsent);
        answers.filter(|message| unsent::is_answer(message)).cloned().collect()
    }
}
