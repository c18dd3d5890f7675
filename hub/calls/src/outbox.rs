//! The bounded queue of one connection's outgoing messages, shared by its spoke leg and its caller leg.
//!
//! [`Outbox::push`] is synchronous and never waits; the one reader of [`Outgoing`] writes the messages to the socket.
//! A full queue is told to the pusher, who decides: nothing is dropped here without a sign.
//!
//! Invariants
//! - What waits, and what the writer has taken and not written, is charged to the budget of the connection's key: the
//!   end of a stream too, for as long as it waits for its pong.
//! - Messages leave in the order in which they came; what [`Outbox::close`] says comes after those queued before it.
//! - The reader is woken once per batch: only a push into an empty queue wakes it.
//! - After [`Outbox::seal`] no call leaves that had not left before; that is what "not delivered" rests on.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use alkhub_budget::{Budget, Held, Kept};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::input::Input;

/// Close code for a connection that does not read as fast as it is written to.
pub(crate) const CLOSE_SLOW: u16 = 4429;

/// What an entry costs beside its bytes, about.
const ENTRY_BYTES: usize = 128;

/// So much of what one connection has waiting is not charged: a peer whose key has used up its budget can be told so.
const FREE_BYTES: usize = 4 * 1024;

/// A queue that grew beyond this gives its memory back when it is empty.
const KEPT_ENTRIES: usize = 128;

/// How much one connection may have waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: usize,
    /// Bytes of all messages together.
    pub bytes: usize,
}

/// The message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The connection does not read as fast as it is written to, or the budget of its key is full.
    #[error("the connection's queue is full")]
    Queue,
    /// The connection is closed or closing.
    #[error("the connection is closed")]
    Closed,
}

/// The writing end: cheap to clone, used from any thread.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

/// The reading end, held by the connection's writer. Dropping it closes the outbox.
#[derive(Debug)]
pub struct Outgoing(Outbox);

/// What the writer does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutgoingItem {
    /// Send this message.
    Message(Bytes),
    /// Send this message, the end of a stream or the abort of a call, so that the peer does not read it together with what
    /// was sent before. It waits, and is charged, until [`Outgoing::sends`] says that it goes.
    Last(Bytes),
    /// Send a close frame and end the connection; nothing follows.
    Close {
        /// The WebSocket's close code.
        code: u16,
        /// One sentence, at most 123 bytes.
        reason: String,
    },
}

/// What one subscription has waiting in a queue that it shares.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

/// Makes the two ends of the queue of one connection, whose key has this budget.
pub fn outbox(limits: Limits, budget: &Budget) -> (Outbox, Outgoing) {
    let outbox = Outbox(Arc::new(Shared {
        limits,
        closed: AtomicBool::new(false),
        queue: Mutex::new(Queue::new(budget)),
    }));
    (outbox.clone(), Outgoing(outbox))
}

struct Shared {
    limits: Limits,
    /// Set with the lock held; read without it as a hint.
    closed: AtomicBool,
    queue: Mutex<Queue>,
}

struct Queue {
    messages: VecDeque<Entry>,
    bytes: usize,
    /// Bytes that the writer has taken and not written.
    taken: usize,
    /// Bytes of ends of streams that the writer has taken and may not write yet.
    kept: usize,
    held: Held,
    waker: Option<Waker>,
    end: End,
    /// Number of the last call pushed, and of the last one handed to the writer.
    calls_pushed: u64,
    calls_taken: u64,
    sealed: bool,
}

#[derive(Default)]
enum End {
    #[default]
    Open,
    Closing {
        code: u16,
        reason: String,
    },
    Closed,
}

struct Entry {
    message: Bytes,
    owner: Owner,
}

enum Owner {
    None,
    /// The end of a stream, or the abort of a call.
    Last,
    /// Once it is on its way to the spoke its input is not needed any more.
    Call(u64, Arc<Input>),
    Subscription(Arc<Backlog>),
}

// === impl Outbox ===

impl Outbox {
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

    /// Queues a call and tells its number, to compare with what [`Outbox::seal`] answers.
    pub(crate) fn push_call(&self, message: Bytes, input: &Arc<Input>) -> Result<u64, Full> {
        self.add(message, |queue| {
            queue.calls_pushed += 1;
            Owner::Call(queue.calls_pushed, Arc::clone(input))
        })
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

    /// Ends the connection once the messages queued so far are written. The first close counts.
    pub fn close(&self, code: u16, reason: &str) {
        let mut queue = self.0.queue.lock();
        if matches!(queue.end, End::Open) {
            queue.end = End::Closing {
                code,
                reason: reason.to_owned(),
            };
            self.0.closed.store(true, Ordering::Release);
            wake(queue.waker.take());
        }
    }

    /// Whether the connection is closed or closing: nothing more is taken.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Why the connection ends, from the close on until the writer has taken it.
    pub fn closing(&self) -> Option<String> {
        if !self.is_closed() {
            return None;
        }
        match &self.0.queue.lock().end {
            End::Closing { reason, .. } => Some(reason.clone()),
            End::Open | End::Closed => None,
        }
    }

    /// Messages that wait for the writer.
    pub fn queued(&self) -> usize {
        self.0.queue.lock().messages.len()
    }

    /// Takes every call that waits out of the queue and lets no more in; answers the number of the last call that
    /// left.
    pub(crate) fn seal(&self) -> u64 {
        let mut queue = self.0.queue.lock();
        queue.sealed = true;
        let mut freed = 0;
        queue.messages.retain(|entry| {
            let keep = !matches!(entry.owner, Owner::Call(..));
            if !keep {
                freed += entry.message.len();
            }
            keep
        });
        queue.bytes -= freed;
        queue.calls_taken
    }

    fn add(&self, message: Bytes, owner: impl FnOnce(&mut Queue) -> Owner) -> Result<u64, Full> {
        let mut queue = self.0.queue.lock();
        if !matches!(queue.end, End::Open) {
            return Err(Full::Closed);
        }
        let limits = self.0.limits;
        // An empty queue takes any message, so that a limit below one message does not end all traffic.
        let room = queue.messages.len() < limits.messages && queue.bytes + message.len() <= limits.bytes;
        if !room && !queue.messages.is_empty() {
            return Err(Full::Queue);
        }
        let owner = owner(&mut queue);
        let number = match &owner {
            Owner::Call(..) if queue.sealed => return Err(Full::Closed),
            Owner::Call(number, _) => *number,
            Owner::None | Owner::Last | Owner::Subscription(_) => 0,
        };
        let cost = queue.cost() + message.len() + ENTRY_BYTES;
        let charged = cost.saturating_sub(FREE_BYTES);
        queue.held.follow(charged).map_err(|_| Full::Queue)?;
        queue.bytes += message.len();
        queue.messages.push_back(Entry { message, owner });
        let waker = queue.waker.take();
        drop(queue);
        wake(waker);
        Ok(number)
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("queued", &self.queued())
            .field("closed", &self.is_closed())
            .finish()
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// The next item, or `Pending` with the task registered to be woken. `None` once the close was handed out.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<OutgoingItem>> {
        let mut queue = self.0.0.queue.lock();
        match queue.take() {
            Taken::Item(item) => Poll::Ready(Some(item)),
            Taken::Nothing => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Taken::End => Poll::Ready(None),
        }
    }

    /// Notes that so many bytes of ends of streams go out now.
    pub fn sends(&mut self, bytes: usize) {
        let mut queue = self.0.0.queue.lock();
        queue.kept = queue.kept.saturating_sub(bytes);
        queue.taken += bytes;
    }

    /// Notes that everything that was taken so far is written, but for the ends of streams that still wait.
    pub fn written(&mut self) {
        let mut queue = self.0.0.queue.lock();
        queue.taken = 0;
        queue.settle();
    }

    /// The next item when there is one.
    pub fn try_next(&mut self) -> Option<OutgoingItem> {
        match self.0.0.queue.lock().take() {
            Taken::Item(item) => Some(item),
            Taken::Nothing | Taken::End => None,
        }
    }

    /// Waits for the next item; `None` once the close was handed out. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<OutgoingItem> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut queue = self.0.0.queue.lock();
        queue.end = End::Closed;
        self.0.0.closed.store(true, Ordering::Release);
        (queue.bytes, queue.taken, queue.kept) = (0, 0, 0);
        queue.held.shrink(0);
        // Backlogs and messages are released outside the lock.
        let messages = std::mem::take(&mut queue.messages);
        drop(queue);
        drop(messages);
    }
}

enum Taken {
    Item(OutgoingItem),
    Nothing,
    End,
}

// === impl Queue ===

impl Queue {
    fn new(budget: &Budget) -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            taken: 0,
            kept: 0,
            held: budget.nothing(Kept::Queues),
            waker: None,
            end: End::Open,
            calls_pushed: 0,
            calls_taken: 0,
            sealed: false,
        }
    }

    /// What the queue costs its key.
    fn cost(&self) -> usize {
        self.bytes + self.taken + self.kept + self.messages.len() * ENTRY_BYTES
    }

    /// Gives back what is not needed any more.
    fn settle(&mut self) {
        self.held.ease(self.cost().saturating_sub(FREE_BYTES));
        if self.messages.is_empty() && self.messages.capacity() > KEPT_ENTRIES {
            self.messages = VecDeque::new();
        }
    }

    fn take(&mut self) -> Taken {
        if let Some(Entry { message, owner }) = self.messages.pop_front() {
            self.bytes -= message.len();
            if matches!(owner, Owner::Last) {
                self.kept += message.len();
                return Taken::Item(OutgoingItem::Last(message));
            }
            self.taken += message.len();
            match owner {
                Owner::None | Owner::Last => {}
                Owner::Call(number, input) => {
                    self.calls_taken = number;
                    input.delivered();
                }
                Owner::Subscription(backlog) => backlog.remove(message.len()),
            }
            return Taken::Item(OutgoingItem::Message(message));
        }
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
}

// === impl Backlog ===

impl Backlog {
    /// Whether one more item of `size` bytes stays within the bounds; an empty backlog takes any item.
    pub(crate) fn has_room(&self, size: usize, items: usize, bytes: usize) -> bool {
        let waiting = self.items.load(Ordering::Acquire);
        waiting == 0 || (waiting < items && self.bytes.load(Ordering::Acquire) + size <= bytes)
    }

    pub(crate) fn add(&self, size: usize) {
        self.items.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(size, Ordering::AcqRel);
    }

    pub(crate) fn remove(&self, size: usize) {
        self.items.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(size, Ordering::AcqRel);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
