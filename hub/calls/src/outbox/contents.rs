//! What an outbox holds, as plain data behind its lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Context;

use alkhub_budget::{Budget, Held, Kept};
use alkhub_queue::{Full, Limits, Queue, Waiter, Weigh};
use bytes::Bytes;

use super::backlog::Backlog;
use super::item::OutgoingItem;
use crate::input::Input;

/// What an entry costs beside its bytes, about.
const ENTRY_BYTES: usize = 128;

/// So much of what one session has waiting is not charged: a peer whose key has used up its budget can still get that answer.
const FREE_BYTES: usize = 4 * 1024;

/// A list that grew beyond this gives its memory back when it is empty.
const KEPT_ENTRIES: usize = 128;

pub(super) struct Contents {
    limits: Limits,
    waiting: Queue<Entry>,
    /// What the writer has taken and the peer has not acknowledged.
    taken: VecDeque<Bytes>,
    /// What an earlier connection has taken and not got rid of: it comes before what waits.
    again: VecDeque<Bytes>,
    /// Bytes of both.
    unacknowledged: usize,
    /// Bytes of ends of streams that the writer has taken and may not write yet.
    kept: usize,
    held: Held,
    /// What is sent last, until it is handed out.
    close: Option<(u16, String)>,
    /// Number of the last call pushed, and of the last one handed to the writer.
    calls_pushed: u64,
    calls_taken: u64,
    sealed: bool,
}

pub(super) struct Entry {
    message: Bytes,
    owner: Owner,
}

/// What happens when the writer takes a message.
pub(super) enum Owner {
    None,
    /// The end of a call.
    End,
    /// The end of a stream, or the abort of a call: the writer keeps it for a while.
    Last,
    /// Once it is on its way to the spoke its input is not needed any more.
    Call(u64, Arc<Input>),
    Subscription(Arc<Backlog>),
}

/// What the writer finds.
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
            taken: VecDeque::new(),
            again: VecDeque::new(),
            unacknowledged: 0,
            kept: 0,
            held: budget.nothing(Kept::Queues),
            close: None,
            calls_pushed: 0,
            calls_taken: 0,
            sealed: false,
        }
    }

    /// Messages that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.again.len()
    }

    /// Queues a message, whose owner learns the number that a call gets.
    pub(super) fn push(&mut self, message: Bytes, owner: impl FnOnce(u64) -> Owner) -> Result<(u64, Waiter), Full> {
        let owner = owner(self.calls_pushed + 1);
        // Of ends there are as many as calls run: they are taken as long as anything is sent.
        let is_last_word = owner.is_end() && self.close.is_some();
        if !is_last_word {
            self.waiting.room(message.len(), self.limits)?;
        }
        let number = match &owner {
            Owner::Call(..) if self.sealed => return Err(Full::Ended),
            Owner::Call(number, _) => *number,
            Owner::None | Owner::End | Owner::Last | Owner::Subscription(_) => self.calls_pushed,
        };
        let cost = self.cost() + message.len() + ENTRY_BYTES;
        self.held
            .follow(cost.saturating_sub(FREE_BYTES))
            .map_err(|_| Full::Queue)?;
        self.calls_pushed = number;
        Ok((number, self.waiting.add(Entry { message, owner })))
    }

    /// Hands the next message to the writer; a copy of it stays until it is acknowledged.
    pub(super) fn take(&mut self) -> Taken {
        if let Some(message) = self.again.pop_front() {
            self.taken.push_back(message.clone());
            return Taken::Item(OutgoingItem::Message(message));
        }
        let Some(Entry { message, owner }) = self.waiting.pop() else {
            return self.take_end();
        };
        match owner {
            Owner::None | Owner::End => {}
            Owner::Call(number, input) => {
                self.calls_taken = number;
                input.delivered();
            }
            Owner::Subscription(backlog) => backlog.remove(message.len()),
            Owner::Last => {
                self.kept += message.len();
                return Taken::Item(OutgoingItem::Last(message));
            }
        }
        self.unacknowledged += message.len();
        self.taken.push_back(message.clone());
        Taken::Item(OutgoingItem::Message(message))
    }

    fn take_end(&mut self) -> Taken {
        match self.close.take() {
            Some((code, reason)) => Taken::Item(OutgoingItem::Close { code, reason }),
            None if self.waiting.has_ended() => Taken::End,
            None => Taken::Nothing,
        }
    }

    /// Leaves the waker of a writer that found nothing.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        self.waiting.wait(cx);
    }

    /// The end of a stream that the writer kept goes out now.
    pub(super) fn send_last(&mut self, message: Bytes) {
        self.kept = self.kept.saturating_sub(message.len());
        self.unacknowledged += message.len();
        self.taken.push_back(message);
    }

    /// Everything that was taken has arrived, as far as the peer can say.
    pub(super) fn acknowledge(&mut self) {
        let arrived: usize = self.taken.iter().map(Bytes::len).sum();
        self.unacknowledged -= arrived;
        self.taken.clear();
        if self.taken.capacity() > KEPT_ENTRIES {
            self.taken = VecDeque::new();
        }
        self.held.ease(self.cost().saturating_sub(FREE_BYTES));
    }

    /// Everything that was taken and not acknowledged waits again.
    pub(super) fn rewind(&mut self) {
        self.taken.append(&mut self.again);
        self.again = std::mem::take(&mut self.taken);
    }

    /// Ends it once what waits has left; `None` when that was decided before.
    pub(super) fn close(&mut self, code: u16, reason: &str) -> Option<Waiter> {
        if self.waiting.has_ended() {
            return None;
        }
        self.close = Some((code, reason.to_owned()));
        Some(self.waiting.end())
    }

    /// Why it ends, until that is handed out.
    pub(super) fn closing(&self) -> Option<&str> {
        self.close.as_ref().map(|(_, reason)| reason.as_str())
    }

    /// Takes out every call that waits and lets no more in; the number of the last call that left.
    pub(super) fn seal(&mut self) -> u64 {
        self.sealed = true;
        self.waiting.retain(|entry| !matches!(entry.owner, Owner::Call(..)));
        self.calls_taken
    }

    /// Ends it at once; what waited is the caller's to drop, without the lock.
    pub(super) fn end(&mut self) -> VecDeque<Entry> {
        // The reader is who ends it: there is nobody to wake.
        drop(self.waiting.end());
        self.close = None;
        (self.unacknowledged, self.kept) = (0, 0);
        (self.taken, self.again) = (VecDeque::new(), VecDeque::new());
        self.held.shrink(0);
        self.waiting.take_all()
    }

    /// What it costs its key.
    fn cost(&self) -> usize {
        let entries = self.len() + self.taken.len();
        self.waiting.bytes() + self.unacknowledged + self.kept + entries * ENTRY_BYTES
    }
}

impl Owner {
    fn is_end(&self) -> bool {
        matches!(self, Self::End | Self::Last)
    }
}

impl Weigh for Entry {
    fn bytes(&self) -> usize {
        self.message.len()
    }
}
