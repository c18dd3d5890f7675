//! Limits how many requests reconciles of Spokes have under way to one Hub's admin API: Spokes of all Hubs share their
//! workers.
//!
//! Invariants
//! - However many Spokes a Hub has, its requests occupy no more than a part of the workers, and at most as many again
//!   wait.
//! - Workers wait for a Hub only while it answers quickly; otherwise they are turned away, and serve the Spokes of
//!   other Hubs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::admin;

/// One Hub may have one in this many workers.
const PART: usize = 4;

/// A Hub that has not answered anything within this time, or took longer to, is not waited for.
const QUICK: Duration = Duration::from_millis(500);

/// The requests to each Hub, by the Hub's uid.
#[derive(Debug)]
pub(crate) struct InFlight {
    each: usize,
    hubs: Mutex<HashMap<String, Arc<OfHub>>>,
}

#[derive(Debug)]
struct OfHub {
    places: Arc<Semaphore>,
    waiters: Semaphore,
    answers: Mutex<Answers>,
}

/// How a Hub answers.
#[derive(Debug)]
struct Answers {
    under_way: usize,
    /// When it last answered quickly, or was sent the first of the requests that are under way.
    quick_at: Instant,
}

/// One request that is under way; dropped when it has ended.
#[derive(Debug)]
pub(crate) struct HubPlace {
    hub: Arc<OfHub>,
    began: Instant,
    _permit: OwnedSemaphorePermit,
}

/// The Hub has as many requests as it may have, and does not finish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hub is slow to answer, or many of its Spokes wait for it already")]
pub(crate) struct Busy;

// === impl InFlight ===

impl InFlight {
    /// Limits for this many workers; 0: no limit on workers.
    pub(crate) fn new(workers: usize) -> Self {
        let each = match workers {
            0 => PART,
            workers => (workers / PART).max(1),
        };
        Self {
            each,
            hubs: Mutex::default(),
        }
    }

    /// A place for one request to a Hub, at once or when another one has ended. Dropping the future gives up the wait.
    ///
    /// # Errors
    /// The Hub is slow, or enough requests wait for it: to be tried later.
    pub(crate) async fn place(&self, hub_uid: &str) -> Result<HubPlace, Busy> {
        let hub = self.of(hub_uid);
        if let Ok(permit) = Arc::clone(&hub.places).try_acquire_owned() {
            return Ok(HubPlace::taken(&hub, permit));
        }
        let _waits = hub.waiters.try_acquire().map_err(|_| Busy)?;
        loop {
            let until = hub.is_quick_until();
            let place = Arc::clone(&hub.places).acquire_owned();
            match timeout_at(until, place).await {
                Ok(Ok(permit)) => return Ok(HubPlace::taken(&hub, permit)),
                // It has answered something meanwhile.
                Err(_) if Instant::now() < hub.is_quick_until() => {}
                Ok(Err(_)) | Err(_) => return Err(Busy),
            }
        }
    }

    /// Forgets Hubs that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.hubs.lock().retain(|uid, _| exists(uid));
    }

    fn of(&self, hub_uid: &str) -> Arc<OfHub> {
        let mut hubs = self.hubs.lock();
        let new = || {
            Arc::new(OfHub {
                places: Arc::new(Semaphore::new(self.each)),
                waiters: Semaphore::new(self.each),
                answers: Mutex::new(Answers {
                    under_way: 0,
                    quick_at: Instant::now(),
                }),
            })
        };
        Arc::clone(hubs.entry(hub_uid.to_owned()).or_insert_with(new))
    }
}

// === impl OfHub ===

impl OfHub {
    fn is_quick_until(&self) -> Instant {
        self.answers.lock().quick_at + QUICK
    }
}

// === impl HubPlace ===

impl HubPlace {
    fn taken(hub: &Arc<OfHub>, permit: OwnedSemaphorePermit) -> Self {
        let began = Instant::now();
        let mut answers = hub.answers.lock();
        if answers.under_way == 0 {
            answers.quick_at = began;
        }
        answers.under_way += 1;
        drop(answers);
        Self {
            hub: Arc::clone(hub),
            began,
            _permit: permit,
        }
    }

    /// Notes how the request ended.
    pub(crate) fn ended<T>(self, answer: Result<T, admin::Error>) -> Result<T, admin::Error> {
        let is_answered = !matches!(answer, Err(admin::Error::Unreachable { .. } | admin::Error::Late));
        if is_answered && self.began.elapsed() < QUICK {
            self.hub.answers.lock().quick_at = Instant::now();
        }
        answer
    }
}

impl Drop for HubPlace {
    fn drop(&mut self) {
        self.hub.answers.lock().under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_hangs_has_its_part_of_the_workers_and_no_other_waits_for_it() {
        let in_flight = InFlight::new(16);
        let mut hanging = Vec::new();
        for _ in 0..4 {
            hanging.push(in_flight.place("hangs").await.expect("a place"));
        }

        let begun = Instant::now();
        assert_eq!(in_flight.place("hangs").await.map(drop), Err(Busy));
        assert!(begun.elapsed() >= QUICK, "it may be quick");
        for _ in 0..1_000 {
            assert_eq!(in_flight.place("hangs").await.map(drop), Err(Busy));
        }
        in_flight.place("another").await.expect("a place");

        assert!(begun.elapsed() < QUICK * 2, "nobody waits any more");
        drop(hanging);
        in_flight.place("hangs").await.expect("nothing is under way");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_answers_quickly_is_waited_for_and_a_slow_one_is_not() {
        for (took, is_quick) in [(QUICK / 2, true), (QUICK, false)] {
            let in_flight = InFlight::new(8);
            let one = in_flight.place("hub").await.expect("a place");
            let _other = in_flight.place("hub").await.expect("a place");
            tokio::time::advance(took).await;
            one.ended(Ok(())).expect("an answer");
            let again = in_flight.place("hub").await.expect("one has ended");
            tokio::time::advance(QUICK / 2).await;

            if is_quick {
                let mut waits = std::pin::pin!(in_flight.place("hub"));
                assert!(futures::poll!(&mut waits).is_pending());
                again.ended(Ok(())).expect("an answer");
                assert!(waits.await.is_ok());
            } else {
                assert_eq!(in_flight.place("hub").await.map(drop), Err(Busy));
            }
        }
    }
}
