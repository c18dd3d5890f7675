//! The bounded queue of messages from a session to its peer, shared by its spoke leg and its caller leg.
//!
//! An [`Outbox`] is the session's stable handle: anybody with a message pushes it, and needs to know neither a socket
//! nor when there is one. [`Outbox::push`] is synchronous and never waits. Its one reader, [`Outgoing`], also belongs
//! to the session, and is lent to the socket that serves it at the moment: a connection that takes over begins with
//! what its predecessor could not deliver ([`Outgoing::attach`]). A full queue is reported to whoever pushes, who
//! decides what to do: nothing is dropped silently.
//!
//! Invariants
//! - Messages that wait, and those that the writer has taken but not written, are charged to the budget of the
//!   session's key; so is the end of a stream while it waits for its pong.
//! - Messages leave in the order in which they came; the close of [`Outbox::close`] follows whatever was queued before
//!   it.
//! - A message stays here until it is acknowledged: by the peer, if it counts what it receives, and otherwise by having
//!   been written.
//! - The reader is woken once per batch: only a push into an empty queue wakes it.
//! - After [`Outbox::seal`], at the session's end, no call leaves that had not left before. That is what "not
//!   delivered" rests on.
//! - When another hub goes on with the session ([`Outgoing::leave`]), messages that wait here, and those pushed later,
//!   go there in the same order. With that, a call counts as sent.

mod backlog;
mod contents;
mod elsewhere;
mod item;
mod outgoing;
mod shared;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alkhub_budget::Budget;
use alkhub_protocol::{CloseCode, Dialect};
use alkhub_queue::{Full, Limits, WrongCount};
use bytes::Bytes;

use crate::leg::input::Input;
pub(crate) use backlog::Backlog;
use contents::Owner;
pub(crate) use elsewhere::Elsewhere;
pub use elsewhere::{DeliveryState, PassedKind, PassedMessage};
pub use item::OutgoingItem;
pub use outgoing::Outgoing;
use shared::Shared;

/// The writing end: cheap to clone, used from any thread.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Shared>);

/// Makes the two ends of the queue of a session, whose key has this budget. The session's `id` must be unique on this
/// hub.
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

    /// How the peer writes request ids: as in the first one that it sent, or the default until then.
    pub fn dialect(&self) -> Dialect {
        self.0.dialect.get().copied().unwrap_or_default()
    }

    /// How the peer has written request ids, if it has sent any.
    pub fn spoken(&self) -> Option<Dialect> {
        self.0.dialect.get().copied()
    }

    /// Notes how the peer writes request ids. The first one counts for the whole session.
    pub fn speaks(&self, dialect: Dialect) {
        self.0.dialect.get_or_init(|| dialect);
    }

    /// Notes whether the peer names specifications by their hash where it can, as it said over its last connection.
    pub fn names_by_hash(&self, does: bool) {
        self.0.by_hash.store(does, Ordering::Release);
    }

    /// Whether the peer names specifications by their hash.
    pub(crate) fn is_by_hash(&self) -> bool {
        self.0.by_hash.load(Ordering::Acquire)
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`Full`]: the message was not taken.
    pub fn push(&self, message: Bytes) -> Result<(), Full> {
        self.add(message, Owner::None, None).map(|_| ())
    }

    /// Queues the abort of the call with this number. A call that was taken out of the queue at the session's end needs
    /// none: its spoke never got it.
    pub(crate) fn push_abort(&self, message: Bytes, number: u64) -> Result<(), Full> {
        // The origin's processes handle calls and aborts on different paths, and forget an abort that comes before its
        // call.
        let is_last = self.dialect() == Dialect::Payload;
        let owner = Owner::Abort { number, is_last };
        let mut contents = self.0.contents.lock();
        if contents.was_taken_out(number) {
            return Ok(());
        }
        let (_, waiter) = contents.push(message, owner, None)?;
        drop(contents);
        waiter.wake();
        Ok(())
    }

    /// Queues the end of the call that the peer knows by this id; with `after_items`, for a peer that must not read it
    /// together with the items. It is accepted while the session is closing, too: its caller gets it as long as
    /// anything is sent.
    pub(crate) fn push_end(&self, message: Bytes, id: &str, after_items: bool) -> Result<(), Full> {
        let owner = if after_items {
            Owner::Last { is_end: true }
        } else {
            Owner::End
        };
        self.add(message, owner, Some(id)).map(|_| ())
    }

    /// Queues a call that the spoke knows by this id, and returns its number, to compare with the result of
    /// [`Outbox::seal`].
    pub(crate) fn push_call(&self, message: Bytes, id: &str, input: &Arc<Input>) -> Result<u64, Full> {
        self.add(message, Owner::Call(Arc::clone(input)), Some(id))
    }

    /// The same for a call that was taken out to go elsewhere, and had its room here: it is accepted as long as the
    /// session lives.
    pub(crate) fn push_call_back(&self, message: Bytes, id: &str, input: &Arc<Input>) -> Result<u64, Full> {
        let mut contents = self.0.contents.lock();
        let (number, waiter) = contents.push_back(message, Owner::Call(Arc::clone(input)), id)?;
        drop(contents);
        waiter.wake();
        Ok(number)
    }

    /// Queues a message from the hub that the session has left.
    ///
    /// # Errors
    /// [`Full`]: the message was not accepted.
    pub fn pass(&self, passed: PassedMessage) -> Result<(), Full> {
        let PassedMessage { kind, id, message } = passed;
        let owner = match kind {
            // That hub has sent the call, and keeps the items within bounds.
            PassedKind::Message | PassedKind::Item => Owner::None,
            PassedKind::Call => Owner::PassedCall,
            PassedKind::Last => Owner::Last { is_end: false },
            PassedKind::End => Owner::End,
            PassedKind::LastEnd => Owner::Last { is_end: true },
        };
        self.add(message, owner, id.as_deref()).map(|_| ())
    }

    /// Whether another hub goes on with the session.
    pub fn is_away(&self) -> bool {
        self.0.away.load(Ordering::Acquire)
    }

    /// Notes that a call which the spoke knows by this id is over on this hub, in case the session has moved to another
    /// hub, to which that matters.
    pub fn leg_ended(&self, leg: &str) {
        let elsewhere = self.0.contents.lock().elsewhere().cloned();
        if let Some(elsewhere) = elsewhere {
            elsewhere.done(leg);
        }
    }

    /// Queues an item of a subscription; it counts in `backlog` until the writer takes it.
    pub(crate) fn push_item(&self, message: Bytes, backlog: &Arc<Backlog>) -> Result<(), Full> {
        backlog.add(message.len());
        let size = message.len();
        let pushed = self.add(message, Owner::Subscription(Arc::clone(backlog)), None);
        if pushed.is_err() {
            backlog.remove(size);
        }
        pushed.map(|_| ())
    }

    /// Ends the session once the messages queued so far are written. Only the first close counts.
    pub fn close(&self, code: CloseCode, reason: &str) {
        let mut contents = self.0.contents.lock();
        if let Some(waiter) = contents.close(code, reason) {
            self.0.closed.store(true, Ordering::Release);
            drop(contents);
            waiter.wake();
        }
    }

    /// Whether the session has ended or is ending: nothing more is accepted.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Why the session ends, from the close until the writer has taken it.
    pub fn closing(&self) -> Option<String> {
        if !self.is_closed() {
            return None;
        }
        self.0.contents.lock().closing().map(str::to_owned)
    }

    /// Takes the peer's word that it has received this many messages of the session.
    ///
    /// # Errors
    /// The peer cannot have received them; nothing changes.
    pub fn acknowledge(&self, count: u64) -> Result<(), WrongCount> {
        self.0.contents.lock().acknowledge(count)
    }

    /// Whether a peer that has received this many messages of the session can come back to it now.
    ///
    /// # Errors
    /// It cannot.
    pub fn can_resume(&self, received: u64) -> Result<(), WrongCount> {
        self.0.contents.lock().check(received)
    }

    /// Whether no connection serves the session at the moment, and its peer may come back.
    pub fn is_detached(&self) -> bool {
        self.0.detached.load(Ordering::Acquire)
    }

    /// Sets whether the peer is to go to another hub once nothing is under way: meanwhile others get the calls that
    /// they can take.
    pub fn set_leaving(&self, leaving: bool) {
        self.0.leaving.store(leaving, Ordering::Release);
    }

    /// Whether the peer is to go to another hub once nothing is under way.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Acquire)
    }

    /// Notes that a call runs on the peer.
    pub(crate) fn call_runs(&self) {
        self.0.running.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that this many calls no longer run on the peer.
    pub(crate) fn calls_done(&self, calls: usize) {
        let calls = u32::try_from(calls).unwrap_or(u32::MAX);
        self.0.running.fetch_sub(calls, Ordering::AcqRel);
    }

    /// How many calls run on the peer, and how many of its own have their end still to come.
    pub fn in_flight(&self) -> u32 {
        let awaited = u32::try_from(self.0.awaited.load(Ordering::Acquire)).unwrap_or(u32::MAX);
        awaited.saturating_add(self.0.running.load(Ordering::Acquire))
    }

    /// [`Outbox::close`], unless something waits for the writer, or a call is under way in either direction. Returns
    /// whether the end is decided. A call that somebody is about to send to the peer either counts as under way or
    /// finds that the peer is gone.
    pub fn close_if_idle(&self, code: CloseCode, reason: &str) -> bool {
        let mut contents = self.0.contents.lock();
        if contents.len() > 0 || self.in_flight() > 0 {
            return false;
        }
        if let Some(waiter) = contents.close(code, reason) {
            self.0.closed.store(true, Ordering::Release);
            drop(contents);
            waiter.wake();
        }
        true
    }

    /// Notes that a call of the peer's has begun: its end will be pushed.
    pub(crate) fn call_begins(&self) {
        self.0.awaited.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the end of such a call has been pushed, or never will be.
    pub(crate) fn call_ended(&self) {
        self.0.awaited.fetch_sub(1, Ordering::Release);
    }

    /// Whether nothing waits for the writer, and no call has its end still to come.
    pub fn is_quiet(&self) -> bool {
        // In this order, because the end of a call is queued before it is no longer awaited.
        self.0.awaited.load(Ordering::Acquire) == 0 && self.queued() == 0
    }

    /// How many messages wait for the writer.
    pub fn queued(&self) -> usize {
        self.0.contents.lock().len()
    }

    /// Takes the call with this number out of the queue. Returns whether it waited there, so that nobody has it.
    pub(crate) fn withdraw(&self, number: u64) -> bool {
        self.0.contents.lock().withdraw(number)
    }

    /// Takes every call that waits out of the queue and lets no more in; returns the number of the last call that left.
    pub(crate) fn seal(&self) -> u64 {
        self.0.contents.lock().seal()
    }

    fn add(&self, message: Bytes, owner: Owner, id: Option<&str>) -> Result<u64, Full> {
        let mut contents = self.0.contents.lock();
        let (number, waiter) = contents.push(message, owner, id)?;
        drop(contents);
        waiter.wake();
        Ok(number)
    }
}

#[cfg(test)]
mod tests;
