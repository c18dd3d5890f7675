//! Everybody who waits for a `group_by`: the flow and its groups.

use std::sync::Arc;
use std::task::{Wake, Waker};

use parking_lot::Mutex;

/// Who waits. One of them has to be woken when the upstream is ready; who that should be is not known, because the one who
/// polled last may be gone. So all are, and the first drives for all.
#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<Vec<Waker>>);

// === impl Wakers ===

impl Wakers {
    /// Adds one, unless it is there.
    pub(super) fn add(&self, waker: &Waker) {
        let mut wakers = self.0.lock();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.0.lock());
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Wakes those who wait, or nobody: to be called when no lock is held.
#[must_use]
pub(super) struct Woken(pub(super) Option<Arc<Wakers>>);

impl Woken {
    pub(super) fn wake(self) {
        if let Some(wakers) = self.0 {
            wakers.wake_all();
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}
