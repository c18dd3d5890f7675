//! A lock that keys take in turn: however many turns one key waits for, each of the others gets its next one soon.
//!
//! Invariants
//! - A waiter waits for at most one turn of each other key, besides the earlier turns of its own key.
//! - A turn that is dropped goes to the next waiter that is still there.
//! - The queue holds one place per waiting future (a place is freed at the next turn of its key at the latest), so
//!   whatever bounds the futures bounds the queue.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The lock, and its waiters.
#[derive(Debug, Default)]
pub(crate) struct FairLock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    taken: bool,
    /// Each waiting key once, in the order of their turns.
    keys: VecDeque<(Arc<str>, VecDeque<oneshot::Sender<Turn>>)>,
}

/// The lock while it is held; dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Turn(Option<Arc<FairLock>>);

// === impl FairLock ===

impl FairLock {
    /// Waits for a turn. Dropping the future gives up the place.
    pub(crate) async fn turn(self: &Arc<Self>, key: &Arc<str>) -> Turn {
        let waiter = {
            let mut state = self.0.lock();
            if !state.taken {
                state.taken = true;
                return Turn(Some(Arc::clone(self)));
            }
            state.wait(key)
        };
        waiter.await.expect("each waiter holds the queue")
    }

    fn hand_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.0.lock();
                let next = state.next();
                state.taken = next.is_some();
                next
            };
            let Some(next) = next else { return };
            match next.send(Turn(Some(Arc::clone(self)))) {
                Ok(()) => return,
                // The waiter has just gone: the loop passes the turn on, not its drop.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

// === impl State ===

impl State {
    fn wait(&mut self, key: &Arc<str>) -> oneshot::Receiver<Turn> {
        let (sender, receiver) = oneshot::channel();
        match self.keys.iter_mut().find(|(waiting, _)| waiting == key) {
            Some((_, places)) => places.push_back(sender),
            None => self.keys.push_back((Arc::clone(key), VecDeque::from([sender]))),
        }
        receiver
    }

    /// Removes the next waiter.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some((key, mut places)) = self.keys.pop_front() {
            places.retain(|place| !place.is_closed());
            let next = places.pop_front();
            if !places.is_empty() {
                self.keys.push_back((key, places));
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lock) = self.0.take() {
            lock.hand_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn keys_that_wait_get_turns_one_after_the_other() {
        let fair = Arc::new(FairLock::default());
        let (greedy, modest): (Arc<str>, Arc<str>) = ("greedy".into(), "modest".into());
        let first = fair.turn(&greedy).await;
        let mut more: Vec<_> = (0..3).map(|_| Box::pin(fair.turn(&greedy))).collect();
        assert!(more.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let mut honest = Box::pin(fair.turn(&modest));
        assert!((&mut honest).now_or_never().is_none());

        drop(first);
        let second = (&mut more[0]).now_or_never().expect("its key waited first");
        assert!((&mut honest).now_or_never().is_none(), "one at a time");
        drop(second);

        let turn = (&mut honest).now_or_never().expect("before the rest of the other key");
        assert!((&mut more[1]).now_or_never().is_none());
        drop(turn);
        assert!((&mut more[1]).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_waiter_that_has_gone_is_passed_over() {
        let fair = Arc::new(FairLock::default());
        let keys: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
        let first = fair.turn(&keys[0]).await;
        let mut gone = Box::pin(fair.turn(&keys[1]));
        let mut waits = Box::pin(fair.turn(&keys[2]));
        assert!((&mut gone).now_or_never().is_none() && (&mut waits).now_or_never().is_none());

        drop(gone);
        drop(first);

        drop(waits.now_or_never().expect("the next one"));
        assert!(!fair.0.lock().taken);
        // A turn that was passed to a waiter that never took it moves on too.
        let first = fair.turn(&keys[0]).await;
        let mut handed = Box::pin(fair.turn(&keys[1]));
        assert!((&mut handed).now_or_never().is_none());
        drop(first);
        drop(handed);
        assert!(!fair.0.lock().taken);
    }
}
