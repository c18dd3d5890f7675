//! How long an object waits after a failure: exponential for each object, 0.5 s to 5 min, with jitter.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_retry::{Backoff, jittered};
use parking_lot::Mutex;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(300));

/// Failures in a row of each object, by uid.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<String, Backoff>>);

// === impl Failures ===

impl Failures {
    /// Counts a failure and returns how long to wait. The jitter is not full: an object that has failed for long must
    /// not be tried at once every now and then.
    pub(crate) fn failed(&self, uid: &str) -> Duration {
        let mut objects = self.0.lock();
        jittered(objects.entry(uid.to_owned()).or_insert(BACKOFF).fail())
    }

    /// Failures in a row so far.
    pub(crate) fn of(&self, uid: &str) -> u32 {
        self.0.lock().get(uid).map(Backoff::failures).unwrap_or_default()
    }

    /// Notes that the object is well again.
    pub(crate) fn succeeded(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Forgets objects that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_waits_longer_with_each_failure_and_starts_over_after_a_success() {
        let failures = Failures::default();

        for _ in 0..20 {
            failures.failed("a");
        }
        assert!(failures.failed("a") >= Duration::from_secs(240));
        assert!(failures.failed("b") < Duration::from_secs(1), "each object for itself");
        assert_eq!((failures.of("a"), failures.of("b"), failures.of("c")), (21, 1, 0));

        failures.succeeded("a");
        assert!(failures.failed("a") < Duration::from_secs(1));
    }
}
