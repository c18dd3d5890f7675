//! The bounded queue of what a session has to say to its peer, shared by its spoke leg and its caller leg.
//!
//! An [`Outbox`] is the session's stable handle: whoever has something to say pushes into it, and knows neither a socket
//! nor when there is one. [`Outbox::push`] is synchronous and never waits. Its one reader, [`Outgoing`], belongs to the
//! session too and is lent to the socket that serves it at the moment: a connection that takes it over begins at what its
//! predecessor did not get rid of ([`Outgoing::attach`]). A full queue is reported to the pusher, who decides: nothing is
//! dropped here without a sign.
//!
//! Invariants
//! - What waits, and what the writer has taken and not written, is charged to the budget of the session's key: the
//!   end of a stream too, for as long as it waits for its pong.
//! - Messages leave in the order in which they came; what [`Outbox::close`] says comes after those queued before it.
//! - A message stays here until it is acknowledged: by having been written, as far as any peer of today acknowledges.
//! - The reader is woken once per batch: only a push into an empty queue wakes it.
//! - After [`Outbox::seal`], at the session's end, no call leaves that had not left before; that is what "not delivered"
//!   rests on.

mod backlog;
mod contents;
mod item;
mod outgoing;
mod shared;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alkhub_budget::Budget;
use alkhub_protocol::Dialect;
use alkhub_queue::{Full, Limits};
use bytes::Bytes;

use crate::input::Input;
pub(crate) use backlog::Backlog;
use contents::Owner;
pub use item::OutgoingItem;
pub use outgoing::Outgoing;
use shared::Shared;

/// Close code for a peer that does not read as fast as it is written to.
pub(crate) const CLOSE_SLOW: u16 = 4429;

/// The writing end: cheap to clone, used from any thread.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Shared>);

/// Makes the two ends of the queue of a session, whose key has this budget. The session's `id` is unique on this hub.
pub fn outbox(id: impl Into<Arc<str>>, limits: Limits, budget: &Budget) -> (Outbox, Outgoing) {
    let shared = Arc::new(Shared::new(id.into(), limits, budget));
    (Outbox(Arc::clone(&shared)), Outgoing::new(shared))
}

// === impl Outbox ===

impl Outbox {
    /// The id of the session.
    pub fn session(&self) -> &Arc<str> {
        &self.0.session
    }

    /// How the peer writes request ids: as it wrote the first that it sent, or the default before.
    pub fn dialect(&self) -> Dialect {
        self.0.dialect.get().copied().unwrap_or_default()
    }

    /// Notes how the peer writes request ids. The first counts for the whole session.
    pub fn speaks(&self, dialect: Dialect) {
        self.0.dialect.get_or_init(|| dialect);
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`Full`]: the message was not taken.
    pub fn push(&self, message: Bytes) -> Result<(), Full> {
        self.add(message, |_| Owner::None).map(|_| ())
    }

    /// Queues the end of a stream, or the abort of a call, for a peer that must not read it together with the items, or the
    /// call, before it.
    pub(crate) fn push_last(&self, message: Bytes) -> Result<(), Full> {
        self.add(message, |_| Owner::Last).map(|_| ())
    }

    /// Queues the end of a call. It is taken while the session is closing too: its caller is told as long as anything is.
    pub(crate) fn push_end(&self, message: Bytes) -> Result<(), Full> {
        self.add(message, |_| Owner::End).map(|_| ())
    }

    /// Queues a call and returns its number, to compare with what [`Outbox::seal`] answers.
    pub(crate) fn push_call(&self, message: Bytes, input: &Arc<Input>) -> Result<u64, Full> {
        self.add(message, |number| Owner::Call(number, Arc::clone(input)))
    }

    /// Queues an item of a subscription; it counts in `backlog` until the writer takes it.
    pub(crate) fn push_item(&self, message: Bytes, backlog: &Arc<Backlog>) -> Result<(), Full> {
        backlog.add(message.len());
        let size = message.len();
        let pushed = self.add(message, |_| Owner::Subscription(Arc::clone(backlog)));
        if pushed.is_err() {
            backlog.remove(size);
        }
        pushed.map(|_| ())
    }

    /// Ends the session once the messages queued so far are written. The first close counts.
    pub fn close(&self, code: u16, reason: &str) {
        let mut contents = self.0.contents.lock();
        if let Some(waiter) = contents.close(code, reason) {
            self.0.closed.store(true, Ordering::Release);
            drop(contents);
            waiter.wake();
        }
    }

    /// Whether the session has ended or is ending: nothing more is taken.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Why the session ends, from the close on until the writer has taken it.
    pub fn closing(&self) -> Option<String> {
        if !self.is_closed() {
            return None;
        }
        self.0.contents.lock().closing().map(str::to_owned)
    }

    /// A call of the peer's has begun: its end will be pushed.
    pub(crate) fn awaits_end(&self) {
        self.0.awaited.fetch_add(1, Ordering::Relaxed);
    }

    /// The end of such a call has been pushed, or never will be.
    pub(crate) fn has_end(&self) {
        self.0.awaited.fetch_sub(1, Ordering::Release);
    }

    /// Whether nothing waits for the writer, and no call has its end still to come.
    pub fn is_quiet(&self) -> bool {
        // In this order: the end of a call is queued before it is awaited no more.
        self.0.awaited.load(Ordering::Acquire) == 0 && self.queued() == 0
    }

    /// Messages that wait for the writer.
    pub fn queued(&self) -> usize {
        self.0.contents.lock().len()
    }

    /// Takes every call that waits out of the queue and lets no more in; answers the number of the last call that
    /// left.
    pub(crate) fn seal(&self) -> u64 {
        self.0.contents.lock().seal()
    }

    fn add(&self, message: Bytes, owner: impl FnOnce(u64) -> Owner) -> Result<u64, Full> {
        let mut contents = self.0.contents.lock();
        let (number, waiter) = contents.push(message, owner)?;
        drop(contents);
        waiter.wake();
        Ok(number)
    }
}

#[cfg(test)]
mod tests;
