//! The queue of one stream: from the connection's reader, which must not wait, to the program.
//!
//! Invariants
//! - `push` never waits: what does not fit is refused or replaces the oldest, and the reader learns of that.
//! - The sender's end is seen only after everything queued was read.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use alkhub_queue::{Limits, Queue};
use parking_lot::Mutex;

use crate::Error;

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped<T> {
    /// This many items were dropped here.
    Lost(u64),
    /// The next item.
    Item(T),
    /// Nothing more will come.
    End,
}

/// The connection's side. Dropping it ends the queue.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    limits: Limits,
    waiting: Arc<Mutex<Waiting<T>>>,
}

/// The stream's side.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Mutex<Waiting<T>>>);

#[derive(Debug)]
struct Waiting<T> {
    /// Items with their bytes.
    queue: Queue<(T, usize)>,
    /// How many items were dropped before those that wait.
    lost: u64,
}

/// A queue with these limits.
pub(crate) fn queue<T>(limits: Limits) -> (Sender<T>, Receiver<T>) {
    let waiting = Arc::new(Mutex::new(Waiting {
        queue: Queue::new(),
        lost: 0,
    }));
    let receiver = Receiver(Arc::clone(&waiting));
    (Sender { limits, waiting }, receiver)
}

// === impl Sender ===

impl<T> Sender<T> {
    /// Adds an item of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Lagged`]: it does not fit.
    pub(crate) fn push(&self, item: T, bytes: usize) -> Result<(), Error> {
        let mut waiting = self.waiting.lock();
        let pushed = waiting.queue.push((item, bytes), self.limits);
        let waiter = pushed.map_err(|_| Error::Lagged(waiting.queue.len()))?;
        drop(waiting);
        waiter.wake();
        Ok(())
    }

    /// Adds an item; if it does not fit, the oldest items are dropped and counted.
    pub(crate) fn push_over(&self, item: T, bytes: usize) {
        let mut waiting = self.waiting.lock();
        while waiting.queue.displace(bytes, self.limits).is_some() {
            waiting.lost += 1;
        }
        let waiter = waiting.queue.add((item, bytes));
        drop(waiting);
        waiter.wake();
    }

    /// Adds a last item, whether it fits or not, and ends the queue.
    pub(crate) fn end_with(self, item: T) {
        let waiter = self.waiting.lock().queue.end_with((item, 0));
        waiter.wake();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waiter = self.waiting.lock().queue.end();
        waiter.wake();
    }
}

// === impl Receiver ===

impl<T> Receiver<T> {
    /// The next item; cancelling the poll loses nothing.
    pub(crate) fn poll_next(&mut self, context: &Context<'_>) -> Poll<Popped<T>> {
        let mut waiting = self.0.lock();
        if waiting.lost > 0 {
            return Poll::Ready(Popped::Lost(std::mem::take(&mut waiting.lost)));
        }
        Poll::Ready(match ready!(waiting.queue.poll(context)) {
            Some((item, _)) => Popped::Item(item),
            None => Popped::End,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const TWO: Limits = Limits { items: 2, bytes: 100 };

    fn drain(receiver: &mut Receiver<u32>) -> Vec<Popped<u32>> {
        let context = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        while let Poll::Ready(popped) = receiver.poll_next(&context) {
            let end = popped == Popped::End;
            out.push(popped);
            if end {
                break;
            }
        }
        out
    }

    #[test]
    fn a_full_queue_refuses_and_says_how_many_wait() {
        let (sender, _receiver) = queue(TWO);

        sender.push(1, 60).expect("room");
        sender.push(2, 40).expect("room");
        let refused = sender.push(3, 0);

        assert!(matches!(refused, Err(Error::Lagged(2))), "{refused:?}");
    }

    #[test]
    fn the_reader_is_told_in_its_place_what_the_oldest_made_room_for() {
        let (sender, mut receiver) = queue(TWO);
        for item in 1..=4 {
            sender.push_over(item, 1);
        }

        assert_eq!(
            drain(&mut receiver),
            [Popped::Lost(2), Popped::Item(3), Popped::Item(4)]
        );
    }

    #[test]
    fn the_end_comes_after_everything_queued() {
        let (sender, mut receiver) = queue(TWO);
        sender.push(1, 1).expect("room");
        sender.end_with(9);

        assert_eq!(drain(&mut receiver), [Popped::Item(1), Popped::Item(9), Popped::End]);
    }
}
