//! Those that wait for a change of an instance or of a name.
//!
//! Invariants
//! - A waiter is woken by any change and looks again; waiters that have left are forgotten when the bound is reached.

use std::collections::HashMap;
use std::hash::Hash;

use alkhub_protocol::{InstanceId, OperationName, SpokeName};
use tokio::sync::oneshot;

/// The most waiters for one kind of change.
const WAITING: usize = 20_000;

/// All waiters.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) instances: Waiters<(SpokeName, InstanceId)>,
    pub(super) names: Waiters<OperationName>,
}

/// The waiters for a change, by what changes.
#[derive(Debug)]
pub(super) struct Waiters<K> {
    waiting: HashMap<K, Vec<oneshot::Sender<()>>>,
    count: usize,
}

// === impl Waiters ===

impl<K: Hash + Eq + Clone> Waiters<K> {
    /// Waits for a change; the receiver fails if too many wait.
    pub(super) fn wait(&mut self, key: &K) -> oneshot::Receiver<()> {
        let (woken, changed) = oneshot::channel();
        if self.count >= WAITING {
            self.forget_those_who_left();
        }
        if self.count < WAITING {
            self.count += 1;
            self.waiting.entry(key.clone()).or_default().push(woken);
        }
        changed
    }

    /// Wakes those that wait for a change.
    pub(super) fn changed(&mut self, key: &K) {
        if self.waiting.is_empty() {
            return;
        }
        for waiting in self.waiting.remove(key).into_iter().flatten() {
            self.count -= 1;
            // The waiter may have left.
            let _ = waiting.send(());
        }
    }

    fn forget_those_who_left(&mut self) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|woken| !woken.is_closed());
            !waiting.is_empty()
        });
        self.count = self.waiting.values().map(Vec::len).sum();
    }
}

impl<K> Default for Waiters<K> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            count: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_left_makes_room_where_as_many_wait_as_may() {
        let mut waiters = Waiters::<u32>::default();
        let mut waiting: Vec<_> = (0..WAITING).map(|_| waiters.wait(&1)).collect();

        let mut refused = waiters.wait(&2);
        drop(waiting.pop());
        let mut taken = waiters.wait(&2);
        waiters.changed(&2);

        assert_eq!(refused.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(taken.try_recv(), Ok(()));
        assert_eq!(waiters.count, WAITING - 1);
    }
}
