//! Bounds how many large answers of other hubs are checked at once.
//!
//! Each of these checks has a thread of its own, and takes memory of several times the size of its answer.
//!
//! Invariants
//! - No more of them run at once than there are processors, or [`LEAST`].
//! - A key has at most half of the places, and other keys have their turn before its next check. So answers that take
//!   long to check hold up those of their own key.

use std::sync::Arc;
use std::thread;

use alkhub_budget::ByKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many checks may run at once on a machine that has fewer processors.
const LEAST: usize = 2;

/// Keys that are remembered although none of their answers are checked.
const IDLE_KEYS: usize = 1_024;

/// The places for checks.
#[derive(Debug)]
pub(super) struct Checks {
    places: Arc<Semaphore>,
    keys: ByKey<Semaphore>,
    each: usize,
}

/// A place for one check, free again when dropped.
#[derive(Debug)]
pub(super) struct CheckPlace {
    _place: OwnedSemaphorePermit,
    _of_key: OwnedSemaphorePermit,
}

// === impl Checks ===

impl Checks {
    /// As many places as the machine has processors.
    pub(super) fn new() -> Self {
        Self::with(thread::available_parallelism().map_or(LEAST, usize::from))
    }

    fn with(places: usize) -> Self {
        let places = places.max(LEAST);
        Self {
            places: Arc::new(Semaphore::new(places)),
            keys: ByKey::new(IDLE_KEYS),
            each: places / 2,
        }
    }

    /// Waits for a place for an answer to a call of `key`. Nothing is taken if the future is dropped.
    pub(super) async fn place(&self, key: &Arc<str>) -> CheckPlace {
        // First the key's own place: whoever waits for one of those that all keys share is then one of few of its key.
        let of_key = taken(self.keys.get(key, || Semaphore::new(self.each))).await;
        let place = taken(Arc::clone(&self.places)).await;
        CheckPlace {
            _place: place,
            _of_key: of_key,
        }
    }
}

async fn taken(places: Arc<Semaphore>) -> OwnedSemaphorePermit {
    places.acquire_owned().await.expect("it is never closed")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn key(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn a_key_whose_checks_take_long_leaves_places_to_others() {
        let checks = Checks::with(1);
        let (slow, other, third) = (key("slow"), key("other"), key("third"));
        let first = checks.place(&slow).now_or_never().expect("free");
        let mut second = Box::pin(checks.place(&slow));

        assert!(
            second.as_mut().now_or_never().is_none(),
            "half of the places are its share"
        );
        let of_other = checks.place(&other).now_or_never().expect("left for it");
        let mut last = Box::pin(checks.place(&third));
        assert!(last.as_mut().now_or_never().is_none(), "all are taken");

        drop(first);
        assert!(
            second.as_mut().now_or_never().is_none(),
            "the third key has waited for it already"
        );
        let of_third = last.as_mut().now_or_never().expect("its turn");
        drop(of_other);
        assert!(second.as_mut().now_or_never().is_some());
        drop(of_third);
    }

    #[test]
    fn keys_of_which_nothing_is_checked_are_forgotten_and_others_are_not() {
        let checks = Checks::with(LEAST);
        let runs = checks.place(&key("runs")).now_or_never().expect("free");

        for other in 1..=2 * IDLE_KEYS {
            checks.place(&key(&other.to_string())).now_or_never().expect("free");
        }

        assert!(
            checks.keys.remembered() <= IDLE_KEYS + 1,
            "{}",
            checks.keys.remembered()
        );
        assert!(checks.place(&key("runs")).now_or_never().is_none());
        drop(runs);
        assert!(checks.place(&key("runs")).now_or_never().is_some());
    }
}
