//! How long an object waits after a failure: exponential for each object, 0.5 s to 5 min, with jitter.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(300);

/// Failures in a row of each object, by uid.
#[derive(Debug, Default)]
pub(crate) struct Backoff(Mutex<HashMap<String, u32>>);

// === impl Backoff ===

impl Backoff {
    /// Notes a failure and tells how long to wait.
    pub(crate) fn failed(&self, uid: &str) -> Duration {
        let mut failures = self.0.lock();
        let count = failures.entry(uid.to_owned()).or_default();
        let delay = jitter(after(*count));
        *count = count.saturating_add(1);
        delay
    }

    /// Failures in a row so far.
    pub(crate) fn failures(&self, uid: &str) -> u32 {
        self.0.lock().get(uid).copied().unwrap_or_default()
    }

    /// The object is well again.
    pub(crate) fn succeeded(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Forgets objects that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

fn after(failures: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(failures.min(16)))
        .min(LONGEST)
}

/// A fifth more or less, so that objects that failed together do not come back together.
pub(crate) fn jitter(delay: Duration) -> Duration {
    delay.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_to_five_minutes_and_starts_again_after_a_success() {
        assert_eq!(after(0), Duration::from_millis(500));
        assert_eq!(after(3), Duration::from_secs(4));
        assert_eq!(after(1_000), LONGEST);

        let backoff = Backoff::default();
        for _ in 0..20 {
            backoff.failed("a");
        }
        assert!(backoff.failed("a") >= Duration::from_secs(240));
        backoff.succeeded("a");
        assert!(backoff.failed("a") < Duration::from_secs(1));
    }
}
