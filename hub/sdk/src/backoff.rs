//! How long to wait before the next try: exponential with full jitter, so that a thousand spokes of a hub that went
//! away do not come back in one moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(15);

/// Counts the tries since the last success.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next delay: anything from 0 to the limit, which doubles from 250 ms to 15 s.
    pub(crate) fn next(&mut self) -> Duration {
        let most = self.limit();
        self.tries = self.tries.saturating_add(1);
        most.mul_f64(fastrand::f64())
    }

    /// Starts over after a success.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

    fn limit(&self) -> Duration {
        FIRST.saturating_mul(1 << self.tries.min(10)).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_doubles_from_a_quarter_of_a_second_to_fifteen() {
        let mut backoff = Backoff::default();
        let mut limits = Vec::new();
        for _ in 0..9 {
            limits.push(backoff.limit().as_millis());
            assert!(backoff.next().as_millis() <= *limits.last().expect("pushed"));
        }

        assert_eq!(limits, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
        backoff.reset();
        assert_eq!(backoff.limit(), FIRST);
    }
}
