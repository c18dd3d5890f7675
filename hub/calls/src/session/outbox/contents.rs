//! The contents of an outbox, as plain data behind its lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Context;

use alkhub_budget::{Budget, Held, Kept};
use alkhub_protocol::CloseCode;
use alkhub_queue::{Full, Limits, Queue, Unacknowledged, Waiter, Weigh, WrongCount};
use bytes::Bytes;

use super::backlog::Backlog;
use super::elsewhere::{DeliveryState, Elsewhere, PassedKind, PassedMessage};
use super::item::OutgoingItem;
use crate::leg::input::Input;

/// The limits on what is kept for a peer that counts what it receives.
const COUNTED: Limits = Limits {
    items: 256,
    bytes: 1024 * 1024,
};

/// The approximate cost of an entry besides its bytes.
const ENTRY_BYTES: usize = 128;

/// How much of what one session has waiting is not charged, so that a peer whose key has used up its budget can still
/// be told so.
const FREE_BYTES: usize = 4 * 1024;

pub(super) struct Contents {
    limits: Limits,
    waiting: Queue<Entry>,
    /// The messages that the writer has taken and the peer has not acknowledged.
    taken: Unacknowledged<Bytes>,
    /// The messages that an earlier connection has taken and not delivered: they come before those that wait.
    again: VecDeque<Bytes>,
    again_bytes: usize,
    /// The bytes of the ends of streams that the writer has taken but may not write yet.
    kept: usize,
    held: Held,
    /// The close, which is sent last; gone once it is handed out.
    close: Option<(CloseCode, String)>,
    /// The number of the last call pushed, and of the last one handed to the writer.
    calls_pushed: u64,
    calls_taken: u64,
    sealed: bool,
    /// Where everything goes once another hub goes on with the session.
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

pub(super) struct Entry {
    message: Bytes,
    owner: Owner,
    /// If it is a call, its own number; otherwise that of the last call before it.
    number: u64,
}

/// The owner of a message, which decides what happens when the writer takes it.
pub(super) enum Owner {
    None,
    /// The end of a call.
    End,
    /// The end of a stream, or the abort of a call on another hub: the writer holds it back for a while.
    Last {
        is_end: bool,
    },
    /// The abort of the call with this number.
    Abort {
        number: u64,
        /// The writer holds it back for a while.
        is_last: bool,
    },
    /// A call. Once it is on its way to the spoke, its input may be released.
    Call(Arc<Input>),
    /// A call from the hub that the session has left, which has already sent it.
    PassedCall,
    Subscription(Arc<Backlog>),
}

/// What the writer gets.
pub(super) enum Taken {
    Item(OutgoingItem),
    Nothing,
    End,
}

// === impl Contents ===

impl Contents {
    pub(super) fn new(limits: Limits, budget: &Budget) -> Self {
        Self {
            limits,
            waiting: Queue::new(),
            taken: Unacknowledged::default(),
            again: VecDeque::new(),
            again_bytes: 0,
            kept: 0,
            held: budget.nothing(Kept::Queues),
            close: None,
            calls_pushed: 0,
            calls_taken: 0,
            sealed: false,
            elsewhere: None,
        }
    }

    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.again.len()
    }

    /// Queues a message about the call that the peer knows by this id; also returns the number of the last call that
    /// was queued.
    pub(super) fn push(&mut self, message: Bytes, owner: Owner, id: Option<&str>) -> Result<(u64, Waiter), Full> {
        if self.elsewhere.is_some() {
            return self.push_elsewhere(message, &owner, id);
        }
        // There are only as many ends as running calls: they are accepted as long as anything is sent.
        let is_last_word = owner.is_end() && self.close.is_some();
        if !is_last_word {
            self.waiting.room(message.len(), self.limits)?;
        }
        let is_call = matches!(owner, Owner::Call(_));
        if is_call && self.sealed {
            return Err(Full::Ended);
        }
        self.charge(message.len() + ENTRY_BYTES)?;
        Ok(self.add(message, owner))
    }

    /// Queues a call that was taken out before, even if its room has been filled meanwhile.
    pub(super) fn push_back(&mut self, message: Bytes, owner: Owner, id: &str) -> Result<(u64, Waiter), Full> {
        if self.elsewhere.is_some() {
            return self.push_elsewhere(message, &owner, Some(id));
        }
        if self.sealed || self.waiting.has_ended() {
            return Err(Full::Ended);
        }
        // If the budget has been used up meanwhile, the next message will be refused for that.
        let _ = self.charge(message.len() + ENTRY_BYTES);
        Ok(self.add(message, owner))
    }

    fn add(&mut self, message: Bytes, owner: Owner) -> (u64, Waiter) {
        self.calls_pushed += u64::from(matches!(owner, Owner::Call(_)));
        let number = self.calls_pushed;
        (number, self.waiting.add(Entry { message, owner, number }))
    }

    /// Passes a message to the hub that goes on with the session.
    fn push_elsewhere(&mut self, message: Bytes, owner: &Owner, id: Option<&str>) -> Result<(u64, Waiter), Full> {
        let is_call = matches!(owner, Owner::Call(_));
        if self.waiting.has_ended() || is_call && self.sealed {
            return Err(Full::Ended);
        }
        let elsewhere = self.elsewhere.as_ref().ok_or(Full::Ended)?;
        let bytes = message.len();
        elsewhere.pass(PassedMessage {
            kind: owner.kind(),
            id: id.map(str::to_owned),
            message,
        })?;
        self.calls_pushed += u64::from(is_call);
        self.calls_taken = self.calls_pushed;
        owner.left(bytes);
        Ok((self.calls_pushed, Waiter::default()))
    }

    /// Hands the next message to the writer; a copy stays here until it is acknowledged.
    pub(super) fn take(&mut self) -> Taken {
        if let Some(message) = self.again.pop_front() {
            self.again_bytes -= message.len();
            return self.hand_out(message);
        }
        let Some(Entry { message, owner, number }) = self.waiting.pop() else {
            return self.take_end();
        };
        if let Owner::Call(_) = owner {
            // They leave in the order of their numbers.
            self.calls_taken = number;
        }
        owner.left(message.len());
        if owner.is_held_back() {
            self.kept += message.len();
            return Taken::Item(OutgoingItem::Last(message));
        }
        self.hand_out(message)
    }

    fn hand_out(&mut self, message: Bytes) -> Taken {
        self.taken.push(message.clone());
        Taken::Item(OutgoingItem::Message(message))
    }

    /// Charges what is kept, and `more` bytes on top. If there is no room, messages that are kept only to be sent again
    /// make way for those that were never sent.
    fn charge(&mut self, more: usize) -> Result<(), Full> {
        let cost = |contents: &Self| (contents.cost() + more).saturating_sub(FREE_BYTES);
        let (whole, is_ring) = (cost(self), self.taken.counts() && !self.taken.is_empty());
        if self.held.follow(whole).is_ok() {
            return Ok(());
        }
        if is_ring {
            self.taken.clear();
            let rest = cost(self);
            return self.held.follow(rest).map_err(|_| Full::Queue);
        }
        Err(Full::Queue)
    }

    fn ease(&mut self) {
        self.held.ease(self.cost().saturating_sub(FREE_BYTES));
    }

    fn take_end(&mut self) -> Taken {
        match self.close.take() {
            Some((code, reason)) => Taken::Item(OutgoingItem::Close { code, reason }),
            None if self.waiting.has_ended() => Taken::End,
            None => Taken::Nothing,
        }
    }

    /// Whether the end is decided.
    pub(super) fn has_ended(&self) -> bool {
        self.waiting.has_ended()
    }

    /// Leaves the waker of a writer that found nothing.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        self.waiting.wait(cx);
    }

    /// Notes that the end of a stream, which the writer held back, goes out now.
    pub(super) fn send_last(&mut self, message: Bytes) {
        self.kept = self.kept.saturating_sub(message.len());
        self.taken.push(message);
    }

    /// Notes a message that did not wait here but leaves between those that did; it is kept if the peer counts.
    pub(super) fn passes(&mut self, message: Bytes) {
        if self.taken.counts() {
            self.taken.push(message);
            if self.charge(0).is_err() {
                self.taken.clear();
            }
        }
    }

    /// Whether the next message might make it forget one that is not acknowledged yet.
    pub(super) fn is_full(&self) -> bool {
        self.taken.is_full()
    }

    /// Notes that everything that was taken is written.
    pub(super) fn written(&mut self) {
        self.taken.written();
        self.ease();
    }

    /// Notes that from now on the peer counts what it receives.
    pub(super) fn count(&mut self) {
        self.taken.count(COUNTED);
    }

    /// Notes that the peer has received this many messages.
    pub(super) fn acknowledge(&mut self, count: u64) -> Result<(), WrongCount> {
        self.taken.acknowledge(count)?;
        self.ease();
        Ok(())
    }

    /// Whether a peer that has received this many messages can come back.
    pub(super) fn check(&self, received: u64) -> Result<(), WrongCount> {
        // What waits to be sent again was not received either: none of it is forgotten.
        self.taken.check(received)
    }

    /// Lets everything that was taken and not acknowledged wait again.
    pub(super) fn rewind(&mut self) {
        let (mut taken, bytes) = self.taken.rewind();
        taken.append(&mut self.again);
        self.again = taken;
        self.again_bytes += bytes;
    }

    /// Where everything goes, if another hub goes on with the session.
    pub(super) fn elsewhere(&self) -> Option<&Arc<dyn Elsewhere>> {
        self.elsewhere.as_ref()
    }

    /// Gives everything to another hub, which goes on with the session from here: first what the peer lacks, by
    /// `begin`, then the messages that the writer held back, then those that wait.
    pub(super) fn leave(
        &mut self,
        elsewhere: Arc<dyn Elsewhere>,
        kept: Vec<Bytes>,
        begin: impl FnOnce(DeliveryState) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.rewind();
        self.again_bytes = 0;
        begin(DeliveryState {
            received: self.taken.sent(),
            again: std::mem::take(&mut self.again).into(),
        })?;
        self.kept = 0;
        for message in kept {
            let (kind, id) = (PassedKind::Last, None);
            elsewhere.pass(PassedMessage { kind, id, message })?;
        }
        for Entry { message, owner, number } in self.waiting.take_all() {
            let (kind, id) = (owner.kind(), None);
            if let Owner::Call(_) = owner {
                self.calls_taken = number;
            }
            owner.left(message.len());
            elsewhere.pass(PassedMessage { kind, id, message })?;
        }
        self.elsewhere = Some(elsewhere);
        self.ease();
        Ok(())
    }

    /// Begins with what another hub has left over.
    pub(super) fn restore(&mut self, delivery: DeliveryState) -> Result<(), Full> {
        let DeliveryState { received, again } = delivery;
        self.taken = Unacknowledged::counting_from(COUNTED, received);
        self.again_bytes = again.iter().map(Bytes::len).sum();
        self.again = again.into();
        self.charge(0)
    }

    /// Ends it once everything that waits has left; `None` if the end was already decided.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) -> Option<Waiter> {
        if self.waiting.has_ended() {
            return None;
        }
        self.close = Some((code, reason.to_owned()));
        Some(self.waiting.end())
    }

    /// Why it ends, until the close is handed out.
    pub(super) fn closing(&self) -> Option<&str> {
        self.close.as_ref().map(|(_, reason)| reason.as_str())
    }

    /// Takes out a call that waits; false if it no longer waits.
    pub(super) fn withdraw(&mut self, number: u64) -> bool {
        let waiting = self.waiting.len();
        self.waiting
            .retain(|entry| entry.number != number || !matches!(entry.owner, Owner::Call(..)));
        let withdrawn = self.waiting.len() < waiting;
        if withdrawn {
            self.ease();
        }
        withdrawn
    }

    /// Takes out every call that waits, with its abort, and lets no more in; returns the number of the last call that
    /// left.
    pub(super) fn seal(&mut self) -> u64 {
        self.sealed = true;
        let last_left = self.calls_taken;
        self.waiting.retain(|entry| match entry.owner {
            Owner::Call(_) => false,
            Owner::Abort { number, .. } => number <= last_left,
            _ => true,
        });
        self.ease();
        last_left
    }

    /// Whether [`Self::seal`] has taken this call out, so that nobody gets it.
    pub(super) fn was_taken_out(&self, number: u64) -> bool {
        self.sealed && number > self.calls_taken
    }

    /// Ends it at once; the caller drops what waited, after releasing the lock.
    pub(super) fn end(&mut self) -> VecDeque<Entry> {
        // The reader itself ends it, so there is nobody to wake.
        drop(self.waiting.end());
        (self.close, self.elsewhere) = (None, None);
        (self.again_bytes, self.kept) = (0, 0);
        (self.taken, self.again) = (Unacknowledged::default(), VecDeque::new());
        self.held.shrink(0);
        self.waiting.take_all()
    }

    /// How many bytes it costs its key.
    fn cost(&self) -> usize {
        let entries = self.len() + self.taken.len();
        self.waiting.bytes() + self.taken.bytes() + self.again_bytes + self.kept + entries * ENTRY_BYTES
    }
}

impl Owner {
    fn is_end(&self) -> bool {
        matches!(self, Self::End) || self.is_held_back()
    }

    fn is_held_back(&self) -> bool {
        matches!(self, Self::Last { .. } | Self::Abort { is_last: true, .. })
    }

    /// The kind of its message, for the other hub.
    fn kind(&self) -> PassedKind {
        match self {
            Self::None | Self::Abort { is_last: false, .. } => PassedKind::Message,
            Self::End => PassedKind::End,
            Self::Last { is_end: true } => PassedKind::LastEnd,
            Self::Last { is_end: false } | Self::Abort { is_last: true, .. } => PassedKind::Last,
            Self::Call(_) | Self::PassedCall => PassedKind::Call,
            Self::Subscription(_) => PassedKind::Item,
        }
    }

    /// Notes that its message, of this many bytes, has left the queue.
    fn left(&self, bytes: usize) {
        match self {
            Self::Call(input) => input.delivered(),
            Self::Subscription(backlog) => backlog.remove(bytes),
            Self::None | Self::End | Self::Last { .. } | Self::Abort { .. } | Self::PassedCall => {}
        }
    }
}

impl Weigh for Entry {
    fn bytes(&self) -> usize {
        self.message.len()
    }
}
