//! What an outbox holds, as plain data behind its lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use alkhub_budget::{Budget, Held, Kept};
use bytes::Bytes;

use super::backlog::Backlog;
use super::item::{Full, Limits, OutgoingItem};
use crate::input::Input;

/// What an entry costs beside its bytes, about.
const ENTRY_BYTES: usize = 128;

/// So much of what one session has waiting is not charged: a peer whose key has used up its budget can be told so.
const FREE_BYTES: usize = 4 * 1024;

/// A queue that grew beyond this gives its memory back when it is empty.
const KEPT_ENTRIES: usize = 128;

pub(super) struct Queue {
    limits: Limits,
    /// First those that the writer has taken and that are not acknowledged, then those that wait.
    messages: VecDeque<Entry>,
    /// So many of them are taken.
    taken: usize,
    waiting_bytes: usize,
    taken_bytes: usize,
    /// Bytes of ends of streams that the writer has taken and may not write yet.
    kept_bytes: usize,
    held: Held,
    pub(super) waker: Option<Waker>,
    pub(super) end: End,
    /// Number of the last call pushed, and of the last one handed to the writer.
    calls_pushed: u64,
    calls_taken: u64,
    sealed: bool,
}

#[derive(Default)]
pub(super) enum End {
    #[default]
    Open,
    Closing {
        code: u16,
        reason: String,
    },
    Closed,
}

pub(super) struct Entry {
    message: Bytes,
    owner: Owner,
}

/// What happens when the writer takes a message.
#[derive(Default)]
pub(super) enum Owner {
    #[default]
    None,
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

// === impl Queue ===

impl Queue {
    pub(super) fn new(limits: Limits, budget: &Budget) -> Self {
        Self {
            limits,
            messages: VecDeque::new(),
            taken: 0,
            waiting_bytes: 0,
            taken_bytes: 0,
            kept_bytes: 0,
            held: budget.nothing(Kept::Queues),
            waker: None,
            end: End::Open,
            calls_pushed: 0,
            calls_taken: 0,
            sealed: false,
        }
    }

    /// Messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.messages.len() - self.taken
    }

    /// Queues a message, whose owner learns the number that a call gets.
    pub(super) fn add(&mut self, message: Bytes, owner: impl FnOnce(u64) -> Owner) -> Result<u64, Full> {
        if !matches!(self.end, End::Open) {
            return Err(Full::Closed);
        }
        // An empty queue takes any message, so that a limit below one message does not end all traffic.
        let waiting = self.waiting();
        let fits = waiting < self.limits.messages && self.waiting_bytes + message.len() <= self.limits.bytes;
        if !fits && waiting > 0 {
            return Err(Full::Queue);
        }
        let owner = owner(self.calls_pushed + 1);
        let number = match &owner {
            Owner::Call(..) if self.sealed => return Err(Full::Closed),
            Owner::Call(number, _) => *number,
            Owner::None | Owner::Last | Owner::Subscription(_) => self.calls_pushed,
        };
        let cost = self.cost() + message.len() + ENTRY_BYTES;
        self.held
            .follow(cost.saturating_sub(FREE_BYTES))
            .map_err(|_| Full::Queue)?;
        self.calls_pushed = number;
        self.waiting_bytes += message.len();
        self.messages.push_back(Entry { message, owner });
        Ok(number)
    }

    /// Hands the next message to the writer; it stays here until it is acknowledged.
    pub(super) fn take(&mut self) -> Taken {
        let Some(entry) = self.messages.get_mut(self.taken) else {
            return self.take_end();
        };
        let size = entry.message.len();
        self.waiting_bytes -= size;
        match std::mem::take(&mut entry.owner) {
            Owner::None => {}
            Owner::Call(number, input) => {
                self.calls_taken = number;
                input.delivered();
            }
            Owner::Subscription(backlog) => backlog.remove(size),
            Owner::Last => {
                let entry = self.messages.remove(self.taken).expect("it is there");
                self.kept_bytes += size;
                return Taken::Item(OutgoingItem::Last(entry.message));
            }
        }
        let message = entry.message.clone();
        self.taken += 1;
        self.taken_bytes += size;
        Taken::Item(OutgoingItem::Message(message))
    }

    fn take_end(&mut self) -> Taken {
        match std::mem::take(&mut self.end) {
            End::Open => Taken::Nothing,
            End::Closing { code, reason } => {
                self.end = End::Closed;
                Taken::Item(OutgoingItem::Close { code, reason })
            }
            End::Closed => {
                self.end = End::Closed;
                Taken::End
            }
        }
    }

    /// The end of a stream that the writer kept goes out now.
    pub(super) fn send_last(&mut self, message: Bytes) {
        let size = message.len();
        self.kept_bytes = self.kept_bytes.saturating_sub(size);
        self.taken_bytes += size;
        let owner = Owner::None;
        self.messages.insert(self.taken, Entry { message, owner });
        self.taken += 1;
    }

    /// Everything that was taken has arrived, as far as the peer can say.
    pub(super) fn acknowledge(&mut self) {
        self.messages.drain(..self.taken);
        (self.taken, self.taken_bytes) = (0, 0);
        self.held.ease(self.cost().saturating_sub(FREE_BYTES));
        if self.messages.is_empty() && self.messages.capacity() > KEPT_ENTRIES {
            self.messages = VecDeque::new();
        }
    }

    /// Everything that was taken and not acknowledged waits again.
    pub(super) fn rewind(&mut self) {
        self.waiting_bytes += self.taken_bytes;
        (self.taken, self.taken_bytes) = (0, 0);
    }

    /// Ends it once what waits has left; false when that was decided before.
    pub(super) fn close(&mut self, code: u16, reason: &str) -> bool {
        let is_open = matches!(self.end, End::Open);
        if is_open {
            let reason = reason.to_owned();
            self.end = End::Closing { code, reason };
        }
        is_open
    }

    /// Takes out every call that waits and lets no more in; the number of the last call that left.
    pub(super) fn seal(&mut self) -> u64 {
        self.sealed = true;
        let mut freed = 0;
        self.messages.retain(|entry| {
            let keep = !matches!(entry.owner, Owner::Call(..));
            if !keep {
                freed += entry.message.len();
            }
            keep
        });
        self.waiting_bytes -= freed;
        self.calls_taken
    }

    /// Ends it at once; what waits is the caller's to drop, without the lock.
    pub(super) fn end(&mut self) -> VecDeque<Entry> {
        self.end = End::Closed;
        (self.taken, self.waiting_bytes, self.taken_bytes, self.kept_bytes) = (0, 0, 0, 0);
        self.held.shrink(0);
        std::mem::take(&mut self.messages)
    }

    /// What the queue costs its key.
    fn cost(&self) -> usize {
        self.waiting_bytes + self.taken_bytes + self.kept_bytes + self.messages.len() * ENTRY_BYTES
    }
}
