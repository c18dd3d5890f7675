//! The bounded queue of one connection, which all of its subscriptions share.
//!
//! Publishers push and never wait; the connection's writer reads. If an event does not fit, the oldest ones are
//! dropped, and the reader gets a gap in their place.
//!
//! Invariants
//! - A queue holds at most [`Limits::items`] events and [`Limits::bytes`] bytes of their texts, plus a little for each
//!   event; one event always fits.
//! - For each topic, the reader sees events in the order of pushing, and an [`Item::Gap`] between two events exactly
//!   where events are missing between them. Gaps pushed one after the other without an event in between become one gap.
//! - While the events waiting for all readers of the hub, each counted once, exceed `events.waiting-bytes`, a queue
//!   holds at most 256 KiB: a fast reader does not notice.
//! - A waiting reader is woken once, by the first push.

mod contents;
mod item;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use alkhub_protocol::TopicFilter;
use alkhub_queue::Limits;
use parking_lot::Mutex;

use crate::publication::Publication;
use contents::Contents;
pub use item::Item;
pub(crate) use item::{Loss, Pushed, Reason};

/// The end of the queue into which subscriptions push. Clones are the same mailbox.
#[derive(Debug)]
pub struct Mailbox {
    queue: Arc<MailboxQueue>,
}

/// The end of the queue from which the connection reads.
#[derive(Debug)]
pub struct Deliveries {
    queue: Arc<MailboxQueue>,
}

/// The state that both ends share.
#[derive(Debug)]
pub(crate) struct MailboxQueue {
    limits: Limits,
    handles: AtomicUsize,
    contents: Mutex<Contents>,
}

/// Creates the queue of one connection.
pub fn mailbox(limits: Limits) -> (Mailbox, Deliveries) {
    let queue = Arc::new(MailboxQueue {
        limits,
        handles: AtomicUsize::new(1),
        contents: Mutex::default(),
    });
    (Mailbox { queue: queue.clone() }, Deliveries { queue })
}

// === impl Mailbox ===

impl Mailbox {
    pub(crate) fn queue(&self) -> &Arc<MailboxQueue> {
        &self.queue
    }
}

impl Clone for Mailbox {
    fn clone(&self) -> Self {
        self.queue.handles.fetch_add(1, Ordering::Relaxed);
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if self.queue.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waiter = self.queue.contents.lock().close();
            waiter.wake();
        }
    }
}

// === impl Deliveries ===

impl Deliveries {
    /// The next item, waiting for it. `None` once nothing more can come: every [`Mailbox`] and every subscription of it
    /// is gone.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Item> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next item, if one is already waiting.
    pub fn try_next(&mut self) -> Option<Item> {
        self.queue.contents.lock().pop()
    }

    /// [`Deliveries::next`] for callers that poll.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        self.queue.contents.lock().poll(context)
    }

    /// Events that wait.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queue.contents.lock().events()
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        // Nobody reads any more, so there is nobody to wake.
        let _nobody = self.queue.contents.lock().end();
    }
}

// === impl MailboxQueue ===

impl MailboxQueue {
    /// Queues an event; `any` says that the subscriber asked for all ids of the type.
    pub(crate) fn push(&self, publication: &Arc<Publication>, any: bool) -> Pushed {
        let (pushed, waiter) = self.contents.lock().push(publication, any, self.limits);
        waiter.wake();
        pushed
    }

    /// Queues a gap of a topic; returns how many additional gaps the reader will see: none or one.
    pub(crate) fn push_gap(&self, filter: &TopicFilter, loss: Loss) -> usize {
        let gap = self.contents.lock().push_gap(filter, loss);
        let gaps = usize::from(gap.is_some());
        gap.unwrap_or_default().wake();
        gaps
    }
}

#[cfg(test)]
mod tests;
