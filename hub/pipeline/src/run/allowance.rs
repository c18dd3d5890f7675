//! What a run may cost per second.

use std::time::Duration;

use tokio::time::Instant;

/// Units that flow in with time, up to those of one second.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second: u64,
    left: u64,
    since: Option<Instant>,
}

// === impl Allowance ===

impl Allowance {
    pub(super) fn new(per_second: u64) -> Self {
        Self {
            per_second,
            left: per_second,
            since: None,
        }
    }

    /// What is left at a time.
    pub(super) fn at(&mut self, now: Instant) -> u64 {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_micros();
        let more = passed.saturating_mul(u128::from(self.per_second)) / 1_000_000;
        // What is less than a unit stays for later.
        if more > 0 {
            let more = u64::try_from(more).unwrap_or(u64::MAX);
            self.left = self.left.saturating_add(more).min(self.per_second);
            let counted = u128::from(more) * 1_000_000 / u128::from(self.per_second.max(1));
            let counted = Duration::from_micros(u64::try_from(counted).unwrap_or(u64::MAX));
            self.since = since.checked_add(counted).filter(|since| *since <= now).or(Some(now));
        }
        self.left
    }

    pub(super) fn take(&mut self, units: u64) {
        self.left = self.left.saturating_sub(units);
    }
}
