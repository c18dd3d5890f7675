//! A bounded queue from the connection's reader, which must not wait, to one stream of the program.
//!
//! Invariants
//! - `push` never waits: what does not fit is refused, or takes the place of the oldest, and then the reader is told.
//! - The sender's end is seen only after everything queued was read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// What may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped<T> {
    /// So many were dropped here.
    Lost(u64),
    /// The next.
    Item(T),
    /// Nothing comes any more.
    End,
}

/// The connection's end.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Mutex<Inner<T>>>);

/// The stream's end.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Mutex<Inner<T>>>);

/// Does not fit; so many are waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full(pub(crate) usize);

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    lost: u64,
    limits: Limits,
    ended: bool,
    waker: Option<Waker>,
}

/// A queue with its limits.
pub(crate) fn queue<T>(limits: Limits) -> (Sender<T>, Receiver<T>) {
    let inner = Inner {
        items: VecDeque::new(),
        bytes: 0,
        lost: 0,
        limits,
        ended: false,
        waker: None,
    };
    let inner = Arc::new(Mutex::new(inner));
    (Sender(inner.clone()), Receiver(inner))
}

// === impl Sender ===

impl<T> Sender<T> {
    /// Adds an item of `bytes` bytes.
    pub(crate) fn push(&self, item: T, bytes: usize) -> Result<(), Full> {
        let mut inner = self.0.lock();
        if !inner.fits(bytes) {
            return Err(Full(inner.items.len()));
        }
        inner.add(item, bytes);
        Ok(())
    }

    /// Adds an item; the oldest make room for it and are counted.
    pub(crate) fn push_over(&self, item: T, bytes: usize) {
        let mut inner = self.0.lock();
        while !inner.fits(bytes) {
            let Some((_, size)) = inner.items.pop_front() else {
                break;
            };
            inner.bytes -= size;
            inner.lost += 1;
        }
        inner.add(item, bytes);
    }

    /// Adds a last item, whether it fits or not, and ends the queue.
    pub(crate) fn end_with(&self, item: T) {
        let mut inner = self.0.lock();
        inner.add(item, 0);
        inner.ended = true;
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.ended = true;
        inner.wake();
    }
}

// === impl Receiver ===

impl<T> Receiver<T> {
    /// The next item; losing the future loses nothing.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Popped<T>> {
        let mut inner = self.0.lock();
        if inner.lost > 0 {
            return Poll::Ready(Popped::Lost(std::mem::take(&mut inner.lost)));
        }
        if let Some((item, size)) = inner.items.pop_front() {
            inner.bytes -= size;
            return Poll::Ready(Popped::Item(item));
        }
        if inner.ended {
            return Poll::Ready(Popped::End);
        }
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

// === impl Inner ===

impl<T> Inner<T> {
    fn fits(&self, bytes: usize) -> bool {
        self.items.is_empty() || (self.items.len() < self.limits.items && self.bytes + bytes <= self.limits.bytes)
    }

    fn add(&mut self, item: T, bytes: usize) {
        if self.ended {
            return;
        }
        self.items.push_back((item, bytes));
        self.bytes += bytes;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Limits = Limits { items: 2, bytes: 100 };

    fn drain(receiver: &mut Receiver<u32>) -> Vec<Popped<u32>> {
        let mut context = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        while let Poll::Ready(popped) = receiver.poll_next(&mut context) {
            let end = popped == Popped::End;
            out.push(popped);
            if end {
                break;
            }
        }
        out
    }

    #[test]
    fn a_full_queue_refuses() {
        let (sender, _receiver) = queue(TWO);

        assert_eq!(sender.push(1, 60), Ok(()));
        assert_eq!(sender.push(2, 60), Err(Full(1)));
        assert_eq!(sender.push(2, 40), Ok(()));
        assert_eq!(sender.push(3, 0), Err(Full(2)));
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
        assert_eq!(sender.push(1, 1), Ok(()));
        sender.end_with(9);
        drop(sender);

        assert_eq!(drain(&mut receiver), [Popped::Item(1), Popped::Item(9), Popped::End]);
    }

    #[test]
    fn one_item_over_the_bytes_limit_passes_alone() {
        let (sender, _receiver) = queue(TWO);

        assert_eq!(sender.push(1, 1_000), Ok(()));
        assert_eq!(sender.push(2, 1), Err(Full(1)));
    }
}
