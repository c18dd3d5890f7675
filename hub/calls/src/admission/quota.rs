//! How many calls of each key run here, and how many of those come from other hubs.
//!
//! Invariants
//! - A place is given back exactly once, whatever becomes of its call: when the call ends, or when the place is dropped
//!   together with a call that was never made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use alkhub_budget::ByKey;
use alkhub_protocol::{CallError, Code};

/// Keys that are remembered although none of their calls run.
const IDLE_KEYS: usize = 4_096;

/// The running calls of each key.
#[derive(Debug)]
pub(crate) struct Quota(ByKey<AtomicUsize>);

/// One place among the running calls of a key, free again when dropped.
#[derive(Debug)]
pub(crate) struct KeyPlace {
    taken: Arc<AtomicUsize>,
    is_free: AtomicBool,
}

// === impl Quota ===

impl Quota {
    /// Takes a place for one more call of a key, unless the key already runs `limit`.
    pub(crate) fn take(&self, key: &Arc<str>, limit: usize) -> Result<KeyPlace, CallError> {
        self.take_below(key, limit).ok_or_else(|| {
            let message =
                format!("the key runs {limit} calls on this hub, as many as it may (`calls.max-in-flight-per-key`)");
            CallError::new(Code::Overloaded, message).retryable()
        })
    }

    /// Takes a place unless the key already holds `most`. With as many as are free of the places that all keys share, a
    /// single key takes half of them, two keys a third each, and a key that has none is refused only when none is left.
    pub(crate) fn take_below(&self, key: &Arc<str>, most: usize) -> Option<KeyPlace> {
        let taken = self.0.get(key, AtomicUsize::default);
        let may_more = taken.fetch_add(1, Ordering::AcqRel) < most;
        let place = KeyPlace {
            taken,
            is_free: AtomicBool::new(false),
        };
        // If there are too many, the place is dropped here, and with it the count goes down again.
        may_more.then_some(place)
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self(ByKey::new(IDLE_KEYS))
    }
}

// === impl KeyPlace ===

impl KeyPlace {
    /// Gives the place back before it is dropped: a caller that has its answer may call again, even if somebody still
    /// holds the call that has ended.
    pub(crate) fn free(&self) {
        if !self.is_free.swap(true, Ordering::AcqRel) {
            self.taken.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for KeyPlace {
    fn drop(&mut self) {
        self.free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_once_when_its_call_ends_or_when_it_is_dropped() {
        let (quota, key) = (Quota::default(), Arc::from("key"));
        let take = || quota.take(&key, 2);
        let (first, second) = (take().expect("room"), take().expect("room"));
        let error = take().expect_err("as many run as may");
        assert_eq!((&error.code, error.retryable), (&Code::Overloaded, true));
        assert!(error.message.contains("`calls.max-in-flight-per-key`"), "{error}");

        first.free();
        first.free();
        drop(first);

        let third = take().expect("its call has ended");
        take().expect_err("it was given back once");
        drop((second, third));
        let _room = (take().expect("dropped"), take().expect("dropped"));
        take().expect_err("neither left anything behind");
    }

    #[test]
    fn a_key_takes_half_of_what_all_share_two_take_a_third_each_and_others_find_room() {
        const PLACES: usize = 12;
        let quota = Quota::default();
        let mut taken = Vec::new();
        let mut take_all = |key: &str| {
            let key = Arc::from(key);
            let before = taken.len();
            while let Some(place) = quota.take_below(&key, PLACES - taken.len()) {
                taken.push(place);
            }
            taken.len() - before
        };

        assert_eq!(
            [take_all("a"), take_all("b"), take_all("c"), take_all("a")],
            [6, 3, 2, 0]
        );
        assert_eq!(
            [take_all("d"), take_all("e")],
            [1, 0],
            "the last place is for a key that has none"
        );

        taken.clear();
        let (mut a, mut b) = (0, 0);
        for _ in 0..PLACES {
            for (key, count) in [("a", &mut a), ("b", &mut b)] {
                let place = quota.take_below(&Arc::from(key), PLACES - taken.len());
                *count += usize::from(place.is_some());
                taken.extend(place);
            }
        }
        assert_eq!([a, b], [4, 4]);
    }

    #[test]
    fn keys_without_running_calls_are_forgotten_and_others_are_not() {
        let quota = Quota::default();
        let place = |key: usize| quota.take(&Arc::from(key.to_string()), 1);
        let runs = place(0).expect("room");

        for key in 1..=2 * IDLE_KEYS {
            place(key).expect("room");
        }

        assert!(quota.0.remembered() <= IDLE_KEYS + 1, "{}", quota.0.remembered());
        place(0).expect_err("it runs");
        drop(runs);
        place(0).expect("it has ended");
    }
}
