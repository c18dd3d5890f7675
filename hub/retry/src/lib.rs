//! The state of a link, and how long to wait before the next try.
//!
//! Promises
//! - Who failed together does not come back together: the pauses of a [`Backoff`] have full jitter.
//! - A pause is never longer than the bound that it was drawn under, however often something failed.
//!
//! Never
//! - It waits for nothing and knows no clock: each loop has its own ends to look out for, and sleeps itself.
//!
//! Uses no other crate of alkhub.

use std::time::Duration;

/// The state of a link, which is made anew whenever it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It works.
    Up,
    /// It does not work; the reason is for people.
    Down(String),
}

/// Counts failures in a row and gives the pause after each: any time up to a bound that doubles.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

// === impl LinkState ===

impl LinkState {
    /// Whether it is [`LinkState::Up`].
    pub fn is_up(&self) -> bool {
        *self == Self::Up
    }
}

// === impl Backoff ===

impl Backoff {
    /// One that has seen no failure. The pause after the first failure is at most `first`, and after any at most
    /// `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            failures: 0,
        }
    }

    /// Counts a failure and draws the pause after it.
    pub fn pause(&mut self) -> Duration {
        self.fail().mul_f64(fastrand::f64())
    }

    /// Counts a failure; returns the longest pause after it, for callers that draw in another way.
    pub fn fail(&mut self) -> Duration {
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        self.first.saturating_mul(doubled).min(self.most)
    }

    /// Failures since the start or the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A time with up to a fifth more or less, for things that many do at intervals.
pub fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(250);
    const MOST: Duration = Duration::from_secs(15);

    #[test]
    fn the_bound_doubles_up_to_the_limit_and_starts_over_after_a_success() {
        let mut backoff = Backoff::new(FIRST, MOST);

        let bounds: Vec<_> = (0..8).map(|_| backoff.fail().as_millis()).collect();
        assert_eq!(bounds, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        for _ in 0..100 {
            backoff.fail();
        }
        assert_eq!((backoff.failures(), backoff.fail()), (108, MOST));

        backoff.reset();
        assert_eq!((backoff.failures(), backoff.fail()), (0, FIRST));
    }

    #[test]
    fn pauses_are_spread_over_all_of_their_bound() {
        let pauses: Vec<_> = (0..1_000).map(|_| Backoff::new(FIRST, MOST).pause()).collect();

        assert!(pauses.iter().all(|pause| *pause <= FIRST));
        assert!(pauses.iter().any(|pause| *pause < FIRST / 5));
        assert!(pauses.iter().any(|pause| *pause > FIRST * 4 / 5));
    }

    #[test]
    fn an_interval_is_spread_by_a_fifth() {
        let second = Duration::from_secs(1);

        let spread: Vec<_> = (0..1_000).map(|_| jittered(second)).collect();

        assert!(
            spread
                .iter()
                .all(|time| (second * 4 / 5..=second * 6 / 5).contains(time))
        );
        assert!(spread.iter().any(|time| *time < second) && spread.iter().any(|time| *time > second));
    }
}
