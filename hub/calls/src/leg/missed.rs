//! Calls for which nobody was found, and which wait for a look at who offers what before they are refused.
//!
//! Invariants
//! - A waiting call can be ended like a running one: by its caller, by the loss of its caller, by the end of the hub.
//! - It is routed or ended once, by whoever takes it. While it is being routed nobody can end it: whoever tries waits
//!   until it is among the running calls, or refused.
//! - The calls that wait are bounded in number and bytes; those that come back from the running calls are bounded as
//!   the running calls are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_protocol::CallRequest;
use parking_lot::Mutex;

use crate::caller::Caller;
use crate::directory::operation::Operation;
use crate::leg::call::{Call, CallTimes};
use crate::leg::sink::Sink;

/// The most calls that wait.
const WAITING: usize = 1_024;

/// The most bytes of their inputs.
const BYTES: usize = 8 * 1024 * 1024;

/// The calls that wait, by the key that they will have as running ones.
#[derive(Debug, Default)]
pub(crate) struct MissedCalls {
    waiting: Mutex<HashMap<u64, Arc<Slot>>>,
    /// How many wait: with this, a call that does not wait locks nothing.
    count: AtomicUsize,
    bytes: AtomicUsize,
    /// How many have come back from the running calls.
    back: AtomicUsize,
}

/// A call as its caller made it.
#[derive(Debug)]
pub(crate) struct Missed {
    pub(crate) caller: Arc<Caller>,
    pub(crate) request: CallRequest,
    pub(crate) times: CallTimes,
    pub(crate) sink: Sink,
}

#[derive(Debug)]
struct Slot {
    bytes: usize,
    call: Mutex<Option<Box<Missed>>>,
}

// === impl Missed ===

impl Missed {
    /// A call that was taken back before anybody got it.
    pub(crate) fn of(call: &Call, caller: Arc<Caller>) -> Self {
        let input = call.input.json().filter(|_| call.input.is_given);
        Self {
            caller,
            request: CallRequest {
                input,
                ..call.request.clone()
            },
            times: call.times.anew(),
            sink: std::mem::replace(&mut *call.sink.lock(), Sink::Ended),
        }
    }

    /// Whether a call of this operation goes on until somebody ends it.
    pub(crate) fn is_endless(&self, operation: &Operation) -> bool {
        operation.is_subscription() && !self.sink.wants_one()
    }

    /// Whether its time is over, if it may take `timeout` in all.
    pub(crate) fn is_late(&self, timeout: Option<Duration>) -> bool {
        timeout.is_some_and(|timeout| self.times.started.elapsed() >= timeout)
    }
}

// === impl MissedCalls ===

impl MissedCalls {
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Lets a call wait; gives it back if there is no room.
    pub(crate) fn add(&self, key: u64, missed: Box<Missed>) -> Result<(), Box<Missed>> {
        let bytes = missed.request.input_or_null().len();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING || self.bytes.load(Ordering::Relaxed) + bytes > BYTES {
            return Err(missed);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let call = Mutex::new(Some(missed));
        waiting.insert(key, Arc::new(Slot { bytes, call }));
        self.count.store(waiting.len(), Ordering::Release);
        Ok(())
    }

    /// Lets a call that was running wait, once `call` has taken it back. At every moment it is in at least one of the
    /// two places, and [`MissedCalls::came_back`] has counted it before it is gone from the first. If it is just being
    /// routed, this waits until that is done. False if `call` finds nothing to take.
    pub(crate) fn add_again(&self, key: u64, call: impl FnOnce() -> Option<Box<Missed>>) -> bool {
        let routed = self.waiting.lock().get(&key).cloned();
        if let Some(routed) = routed {
            drop(routed.call.lock());
        }
        let slot = Arc::new(Slot {
            bytes: 0, // One that was admitted is no more to keep than it was.
            call: Mutex::new(None),
        });
        let mut waits = slot.call.lock();
        {
            let mut waiting = self.waiting.lock();
            waiting.insert(key, Arc::clone(&slot));
            self.count.store(waiting.len(), Ordering::Release);
        }
        self.back.fetch_add(1, Ordering::AcqRel);
        *waits = call();
        let added = waits.is_some();
        if !added {
            self.remove(key, &slot);
        }
        added
    }

    /// How many calls have come back from the running ones: whoever finds a call in neither place looks again if this
    /// has changed meanwhile.
    pub(crate) fn came_back(&self) -> usize {
        self.back.load(Ordering::Acquire)
    }

    /// Whether a call waits or is being routed.
    pub(crate) fn contains(&self, key: u64) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.waiting.lock().contains_key(&key)
    }

    /// Acts on a waiting call; if `act` takes the call, it no longer waits when this returns. `None` if it does not
    /// wait: then it runs, or has ended.
    pub(crate) fn on<R>(&self, key: u64, act: impl FnOnce(&mut Option<Box<Missed>>) -> R) -> Option<R> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let slot = Arc::clone(self.waiting.lock().get(&key)?);
        let mut call = slot.call.lock();
        let acted = call.is_some().then(|| act(&mut call))?;
        if call.is_none() {
            self.remove(key, &slot);
        }
        Some(acted)
    }

    fn remove(&self, key: u64, slot: &Arc<Slot>) {
        let mut waiting = self.waiting.lock();
        if waiting.get(&key).is_some_and(|waits| Arc::ptr_eq(waits, slot)) {
            waiting.remove(&key);
        }
        self.bytes.fetch_sub(slot.bytes, Ordering::Relaxed);
        self.count.store(waiting.len(), Ordering::Release);
    }

    /// Takes out a waiting call, to end it.
    pub(crate) fn take(&self, key: u64) -> Option<Box<Missed>> {
        self.on(key, Option::take).flatten()
    }

    pub(crate) fn keys(&self) -> Vec<u64> {
        self.waiting.lock().keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::RawJson;

    use super::*;

    fn missed(input: usize) -> Box<Missed> {
        let (answers, _) = tokio::sync::oneshot::channel();
        Box::new(Missed {
            caller: Arc::new(Caller {
                key_id: "key".into(),
                scopes: Arc::default(),
                spoke: None,
            }),
            request: CallRequest::new(
                "r".parse().expect("valid"),
                "text.upper".parse().expect("valid"),
                Some(RawJson::parse(format!("\"{}\"", "x".repeat(input))).expect("JSON")),
            ),
            times: CallTimes::start(),
            sink: Sink::Once(answers),
        })
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes_and_gives_its_place_back() {
        let calls = MissedCalls::default();
        for key in 0..WAITING as u64 {
            calls.add(key, missed(1)).expect("room");
        }
        calls.add(7_000, missed(1)).expect_err("as many wait as may");
        assert!(calls.take(0).is_some() && calls.take(0).is_none(), "once");
        calls.add(7_000, missed(BYTES)).expect_err("too large for what is left");
        calls.add(7_000, missed(1)).expect("one has gone");

        for key in calls.keys() {
            assert!(calls.take(key).is_some());
        }

        calls.add(1, missed(BYTES - 2)).expect("nothing else waits");
    }

    /// The thread that routes a call holds its place, and gives it up afterwards; a call that comes back meanwhile has
    /// another place. Without that, whoever ends the call would find it in neither place, and the end would be lost.
    #[test]
    fn a_call_that_comes_back_while_it_is_routed_waits_after_that() {
        let calls = Arc::new(MissedCalls::default());
        calls.add(1, missed(1)).expect("room");
        let routes = std::sync::Barrier::new(2);

        std::thread::scope(|scope| {
            scope.spawn(|| {
                calls.on(1, |call| {
                    drop(call.take());
                    routes.wait();
                });
            });
            routes.wait();
            assert!(calls.add_again(1, || Some(missed(1))));
        });

        assert!(calls.contains(1) && calls.take(1).is_some());
        assert_eq!((calls.len(), calls.came_back()), (0, 1));
        assert!(!calls.add_again(2, || None) && !calls.contains(2), "it has ended");
    }

    #[test]
    fn who_ends_a_call_that_is_being_routed_waits_for_that() {
        let calls = Arc::new(MissedCalls::default());
        calls.add(1, missed(1)).expect("room");
        let (routed, ends) = (AtomicUsize::new(0), std::sync::Barrier::new(2));

        std::thread::scope(|scope| {
            scope.spawn(|| {
                calls.on(1, |call| {
                    drop(call.take());
                    ends.wait();
                    routed.store(1, Ordering::Release);
                });
            });
            ends.wait();

            assert!(calls.take(1).is_none());
            assert_eq!(routed.load(Ordering::Acquire), 1);
        });
        assert!(!calls.contains(1));
    }
}
