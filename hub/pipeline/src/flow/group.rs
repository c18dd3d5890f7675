//! `group_by`: one flow for each key.
//!
//! Invariants
//! - No more than [`GroupBounds::groups`] groups are live; a new one ends the one that has been idle for longest.
//! - No more than `groups * buffer` items wait in live groups, and as many in those that have ended and are still read.
//! - The lock is held while the upstream is polled and while keys are compared, never across a wait.

use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use parking_lot::Mutex;

pub use bounds::{GroupBounds, Unread};

use shared::{Driven, Shared};

mod bounds;
mod shared;
mod wakers;

/// See [`crate::Flow::group_by`].
#[derive(Debug)]
pub struct Grouped<S, F, K, T, E> {
    shared: Handle<S, F, K, T, E>,
}

/// The items of one key. Dropping it drops what waits in it; a later item of its key begins a new group.
#[derive(Debug)]
pub struct KeyedGroup<S, F, K, T, E> {
    key: K,
    id: u64,
    missed: u64,
    /// `None` once it has ended.
    shared: Option<Handle<S, F, K, T, E>>,
}

type Handle<S, F, K, T, E> = Arc<Mutex<Shared<S, F, K, T, E>>>;

// === impl Grouped ===

impl<S, F, K, T, E> Grouped<S, F, K, T, E> {
    pub(super) fn new(upstream: S, bounds: GroupBounds, key: F) -> Self {
        let shared = Shared::new(upstream, bounds, key);
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }
}

impl<S, F, K, T, E> Stream for Grouped<S, F, K, T, E>
where
    S: Stream<Item = Result<T, E>>,
    F: FnMut(&T) -> K,
    K: Hash + Eq + Clone,
{
    type Item = Result<KeyedGroup<S, F, K, T, E>, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = self.shared.lock();
        let driven = shared.drive(context, |shared| !shared.fresh.is_empty());
        let fresh = shared.fresh.pop_front();
        let is_pending = fresh.is_none() && driven == Driven::Pending;
        let wakers = shared.woken();
        drop(shared);
        wakers.wake();
        match fresh {
            Some(Ok((key, id))) => {
                let group = KeyedGroup {
                    key,
                    id,
                    missed: 0,
                    shared: Some(Arc::clone(&self.shared)),
                };
                Poll::Ready(Some(Ok(group)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None if is_pending => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

impl<S, F, K, T, E> Drop for Grouped<S, F, K, T, E> {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        let upstream = shared.close();
        let wakers = shared.woken();
        drop(shared);
        drop(upstream);
        wakers.wake();
    }
}

// === impl KeyedGroup ===

impl<S, F, K, T, E> KeyedGroup<S, F, K, T, E> {
    /// The key of all its items.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// How many of its items were dropped unread, as far as it was polled.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl<S, F, K, T, E> Unpin for KeyedGroup<S, F, K, T, E> {}

impl<S, F, K, T, E> Stream for KeyedGroup<S, F, K, T, E>
where
    S: Stream<Item = Result<T, E>>,
    F: FnMut(&T) -> K,
    K: Hash + Eq + Clone,
{
    type Item = Result<T, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(handle) = &this.shared else {
            return Poll::Ready(None);
        };
        let mut shared = handle.lock();
        let id = this.id;
        shared.drive(context, |shared| !shared.waits(id));
        let (item, has_ended, missed) = shared.take(id);
        this.missed = missed;
        let wakers = shared.woken();
        drop(shared);
        wakers.wake();
        match item {
            Some(item) => Poll::Ready(Some(Ok(item))),
            None if has_ended => {
                this.shared = None;
                Poll::Ready(None)
            }
            None => Poll::Pending,
        }
    }
}

impl<S, F, K, T, E> Drop for KeyedGroup<S, F, K, T, E> {
    fn drop(&mut self) {
        let Some(handle) = self.shared.take() else {
            return;
        };
        let mut shared = handle.lock();
        let items = shared.leave(self.id);
        let wakers = shared.woken();
        drop(shared);
        drop(items);
        wakers.wake();
    }
}
