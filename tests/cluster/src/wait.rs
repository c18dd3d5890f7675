//! Waiting on a condition, with a deadline and the last state in the message.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A clock that started when it was made; every progress line shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

/// What one check of a condition found.
#[derive(Debug)]
pub(crate) enum Progress<T> {
    /// It holds.
    Done(T),
    /// Not yet, and this is what was seen instead.
    Pending(String),
}

/// Checks every `step` until the condition holds, fails, or `limit` has passed.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    step: Duration,
    mut check: impl FnMut() -> Result<Progress<T>>,
) -> Result<T> {
    let clock = Clock::start();
    loop {
        let last = match check()? {
            Progress::Done(value) => return Ok(value),
            Progress::Pending(last) => last,
        };
        if clock.elapsed() > limit {
            bail!("{what}: not after {} s; last seen: {last}", limit.as_secs());
        }
        thread::sleep(step);
    }
}

// === impl Clock ===

impl Clock {
    /// Starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "a synchronous tool that waits for real processes has no tokio clock"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Seconds since the start, for people.
    pub(crate) fn seconds(self) -> String {
        format!("{:.1} s", self.elapsed().as_secs_f32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_fails_says_what_was_seen_last() {
        let waited = until::<()>("the moon", Duration::ZERO, Duration::from_millis(1), || {
            Ok(Progress::Pending("clouds".to_owned()))
        });

        assert_eq!(
            waited.expect_err("never").to_string(),
            "the moon: not after 0 s; last seen: clouds"
        );
    }
}
