//! How long this term of leadership has looked after pods that are to go.
//!
//! Invariants
//! - The time is measured by a monotonic clock and not stored: the time of a mark is in Kubernetes; here is how much of
//!   it counts.
//! - A hub that is told nothing for [`DRAIN_LAPSE`] takes its connections back. A term that finds a hub draining goes
//!   on with the time since its mark; otherwise only the time since it began to tell the hub counts.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_protocol::kubernetes::DRAIN_LAPSE;
use tokio::time::Instant;

/// The pods of one Hub that are to go, by uid.
#[derive(Debug, Default)]
pub(crate) struct WatchedDrains(HashMap<String, Watch>);

/// One of them, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WatchedDrain {
    /// How long this term has known of its mark.
    pub(crate) known_for: Duration,
    /// How much of the time since the mark counts; `None`: all of it.
    pub(crate) counts_for: Option<Duration>,
    /// Whether its hub was not draining when this term began to tell it.
    pub(crate) is_anew: bool,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    began: Instant,
    /// When it was last looked after.
    last: Instant,
    counts: Counts,
}

/// From when on the time since a mark counts.
#[derive(Clone, Copy, Debug)]
enum Counts {
    /// From when the term began: no report says yet whether its hub drains.
    Unknown,
    /// From the mark on: its hub was draining when the term began to tell it.
    All,
    /// From this moment on: its hub was not draining.
    Since(Instant),
}

// === impl WatchedDrains ===

impl WatchedDrains {
    /// Looks after exactly these pods from now on: each by its uid, with whether its hub is known to drain.
    pub(crate) fn look_after(&mut self, pods: impl Iterator<Item = (String, Option<bool>)>) {
        let now = Instant::now();
        let watched = pods.map(|(uid, is_draining)| {
            let before = self.0.get(&uid).filter(|watch| !watch.is_over());
            let began = before.map_or(now, |watch| watch.began);
            let counts = match (before.map_or(Counts::Unknown, |watch| watch.counts), is_draining) {
                (Counts::Unknown, Some(true)) => Counts::All,
                (Counts::Unknown, Some(false)) => Counts::Since(now),
                (counts, _) => counts,
            };
            let last = now;
            (uid, Watch { began, last, counts })
        });
        self.0 = watched.collect();
    }

    /// The current state, leaving out those that nobody has looked after for too long.
    pub(crate) fn now(&self) -> HashMap<String, WatchedDrain> {
        let watched = self.0.iter().filter(|(_, watch)| !watch.is_over());
        watched.map(|(uid, watch)| (uid.clone(), watch.now())).collect()
    }
}

// === impl Watch ===

impl Watch {
    fn is_over(&self) -> bool {
        self.last.elapsed() >= DRAIN_LAPSE
    }

    fn now(&self) -> WatchedDrain {
        let known_for = self.began.elapsed();
        WatchedDrain {
            known_for,
            counts_for: match self.counts {
                Counts::Unknown => Some(known_for),
                Counts::All => None,
                Counts::Since(at) => Some(at.elapsed()),
            },
            is_anew: matches!(self.counts, Counts::Since(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn look(drains: &mut WatchedDrains, is_draining: Option<bool>) -> WatchedDrain {
        drains.look_after([("pod".to_owned(), is_draining)].into_iter());
        drains.now()["pod"]
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_goes_on_with_a_mark_whose_hub_drains_and_begins_anew_where_it_does_not() {
        let (mut drains, mut lapsed) = (WatchedDrains::default(), WatchedDrains::default());
        let first = look(&mut drains, None);
        look(&mut lapsed, None);
        tokio::time::advance(5 * SECOND).await;

        assert_eq!(first.counts_for, Some(Duration::ZERO), "no report says anything yet");
        assert_eq!(look(&mut drains, Some(true)).counts_for, None);
        let anew = look(&mut lapsed, Some(false));

        assert_eq!(
            (anew.known_for, anew.counts_for, anew.is_anew),
            (5 * SECOND, Some(Duration::ZERO), true)
        );
        tokio::time::advance(5 * SECOND).await;
        assert_eq!(
            look(&mut lapsed, Some(true)).counts_for,
            Some(5 * SECOND),
            "it drains since it was told"
        );
        assert_eq!(look(&mut drains, None).counts_for, None, "a poll has failed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_nobody_looked_after_for_as_long_as_a_drain_lasts_is_a_new_one() {
        let mut drains = WatchedDrains::default();
        look(&mut drains, Some(true));

        tokio::time::advance(DRAIN_LAPSE).await;

        assert!(drains.now().is_empty());
        let anew = look(&mut drains, Some(false));
        assert_eq!((anew.known_for, anew.is_anew), (Duration::ZERO, true));
        drains.look_after(std::iter::empty());
        assert!(drains.now().is_empty(), "its mark was taken back");
    }
}
