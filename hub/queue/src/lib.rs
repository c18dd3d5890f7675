//! The bounded queue between senders that must not wait and the one reader.
//!
//! A hub and its SDK have one such queue per connection, per stream and per relayed call. They differ in what they do
//! about a full queue: one refuses, one drops the oldest, one makes its sender wait. So a [`Queue`] is only the state
//! that they have in common: items in order, what they weigh, the end, and the waker of the reader. Its owner keeps it
//! under the same lock as the rest of the state, and there is no second one.
//!
//! After a queue, both ends of a connection have another thing in common: messages that were sent and may have to be
//! sent again. That is [`Unacknowledged`].
//!
//! Promises
//! - Items leave in the order in which they came. Nothing leaves but by `pop`, `poll`, `displace`, `retain` and
//!   `take_all`, all of which its owner calls: nothing is lost here without a sign.
//! - What waits stays within the [`Limits`] that each push names, but that an empty queue takes any item: a limit below
//!   one item does not end all traffic. [`Queue::add`] asks for no room; its callers have reason to.
//! - A reader that waits is woken by the first item or the end, once. What is pushed until it reads wakes nobody.
//! - The end is read after everything that waited before it.
//! - A queue that grew far and is empty again gives its memory back.
//!
//! Never
//! - It does not wait or lock, and allocates nothing but the places of its items.
//! - It wakes nobody under the owner's lock: it hands out the [`Waiter`], which its owner wakes afterwards.
//! - It does no I/O and knows no runtime.
//!
//! Uses no other crate of alkhub.

mod unacknowledged;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::task::{Context, Poll, Waker};

pub use unacknowledged::{Unacknowledged, WrongCount};

/// The numbers of places for which an empty queue keeps its memory. Fewer are quickly allocated again, and a hub has
/// tens of thousands of queues that are mostly empty; more are left over from a burst.
const KEPT_PLACES: RangeInclusive<usize> = 9..=128;

/// What an item of a queue weighs. This must not change while the item waits, except through [`Queue::change`].
pub trait Weigh {
    /// Its bytes.
    fn bytes(&self) -> usize;

    /// Whether it is one of the items that [`Limits::items`] bounds. A sign that something is missing is not: it must
    /// not displace what it stands next to.
    fn counts(&self) -> bool {
        true
    }
}

/// How much may wait for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Items.
    pub items: usize,
    /// Bytes of all items together, by their weight.
    pub bytes: usize,
}

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// It does not fit next to what waits.
    #[error("the queue is full")]
    Queue,
    /// The queue has ended.
    #[error("the queue has ended")]
    Ended,
}

/// The state of a queue, without a lock.
#[derive(Debug)]
pub struct Queue<T> {
    items: VecDeque<T>,
    /// How many of `items` count.
    counted: usize,
    bytes: usize,
    has_ended: bool,
    reader: Option<Waker>,
}

/// The reader, if it waits. Wake it after releasing the lock, since it will want the lock.
#[derive(Debug, Default)]
#[must_use = "a reader that nobody wakes waits for ever"]
pub struct Waiter(Option<Waker>);

/// Frees the memory of an empty queue, unless it is worth keeping.
fn ease<T>(items: &mut VecDeque<T>) {
    if items.is_empty() && !KEPT_PLACES.contains(&items.capacity()) {
        *items = VecDeque::new();
    }
}

// === impl Queue ===

impl<T: Weigh> Queue<T> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            items: VecDeque::new(),
            counted: 0,
            bytes: 0,
            has_ended: false,
            reader: None,
        }
    }

    /// Adds an item at the end, if it fits.
    ///
    /// # Errors
    /// [`Full`]: the item was dropped.
    pub fn push(&mut self, item: T, limits: Limits) -> Result<Waiter, Full> {
        self.room(item.bytes(), limits)?;
        Ok(self.add(item))
    }

    /// Whether an item of `bytes` bytes would be accepted now. Callers that have to check more before they add the item
    /// begin with this.
    ///
    /// # Errors
    /// [`Full`]: it would not.
    pub fn room(&self, bytes: usize, limits: Limits) -> Result<(), Full> {
        if self.has_ended {
            Err(Full::Ended)
        } else if self.fits(bytes, limits) {
            Ok(())
        } else {
            Err(Full::Queue)
        }
    }

    /// Adds an item at the end without asking for room, even after the end: for items for which [`Queue::room`] or
    /// [`Queue::displace`] has made room, and for items that must not get lost.
    pub fn add(&mut self, item: T) -> Waiter {
        self.counted += usize::from(item.counts());
        self.bytes += item.bytes();
        self.items.push_back(item);
        Waiter(self.reader.take())
    }

    /// Removes the oldest item as long as one of `bytes` bytes does not fit; `None` once it fits.
    pub fn displace(&mut self, bytes: usize, limits: Limits) -> Option<T> {
        if self.fits(bytes, limits) {
            return None;
        }
        self.pop()
    }

    /// Removes the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        let item = self.items.pop_front()?;
        self.counted -= usize::from(item.counts());
        self.bytes -= item.bytes();
        ease(&mut self.items);
        Some(item)
    }

    /// Removes the oldest item, or stores the reader's waker; `None` after the end.
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<Option<T>> {
        if let Some(item) = self.pop() {
            return Poll::Ready(Some(item));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.wait(context);
        Poll::Pending
    }

    /// Stores the waker of a reader that found nothing. There is one reader, so it replaces the one stored before.
    pub fn wait(&mut self, context: &Context<'_>) {
        match &mut self.reader {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }

    /// The waiting reader, to be woken for a reason other than an item.
    pub fn reader(&mut self) -> Waiter {
        Waiter(self.reader.take())
    }

    /// Removes everything.
    pub fn take_all(&mut self) -> VecDeque<T> {
        (self.counted, self.bytes) = (0, 0);
        std::mem::take(&mut self.items)
    }

    /// What waits, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// Drops the items for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let (counted, bytes) = (&mut self.counted, &mut self.bytes);
        self.items.retain(|item| {
            let kept = keep(item);
            if !kept {
                *counted -= usize::from(item.counts());
                *bytes -= item.bytes();
            }
            kept
        });
    }

    /// Changes the item at a place, counted from the oldest; does nothing if there is none.
    pub fn change(&mut self, place: usize, change: impl FnOnce(&mut T)) {
        let Some(item) = self.items.get_mut(place) else {
            return;
        };
        self.counted -= usize::from(item.counts());
        self.bytes -= item.bytes();
        change(item);
        self.counted += usize::from(item.counts());
        self.bytes += item.bytes();
    }

    /// Adds a last item, whether it fits or not, and ends the queue.
    pub fn end_with(&mut self, item: T) -> Waiter {
        self.has_ended = true;
        self.add(item)
    }

    /// Ends the queue: [`Queue::push`] refuses from now on, and the reader sees the end once it has read what waits.
    pub fn end(&mut self) -> Waiter {
        self.has_ended = true;
        Waiter(self.reader.take())
    }

    /// Whether the queue has ended. Items may still be waiting.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many items wait, which is also the place of the next one.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// How many of the waiting items count.
    pub fn counted(&self) -> usize {
        self.counted
    }

    /// The weight of everything that waits.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn fits(&self, bytes: usize, limits: Limits) -> bool {
        self.counted == 0 || (self.counted < limits.items && self.bytes + bytes <= limits.bytes)
    }
}

impl<T: Weigh> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Waiter ===

impl Waiter {
    /// Wakes the reader.
    pub fn wake(self) {
        if let Some(waker) = self.0 {
            waker.wake();
        }
    }
}

/// An item together with its bytes, for items that cannot tell their own.
impl<T> Weigh for (T, usize) {
    fn bytes(&self) -> usize {
        self.1
    }
}

#[cfg(test)]
mod tests;
