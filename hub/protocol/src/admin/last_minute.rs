//! What happened on the hubs in the last minute; roll-outs are judged by it.

use std::ops::{Add, Sub};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A peer whose connection is lost counts as late if it is not back after this long.
pub const RETURN_LIMIT: Duration = Duration::from_secs(5);

/// What has come to its end on one hub, or on several together, in the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct LastMinute {
    /// Calls of its callers that ended.
    pub calls: u64,
    /// Of these, those that failed by the hubs: INTERNAL, NO_PROVIDER, OVERLOADED, SPOKE_LOST, UNAVAILABLE; without NO_PROVIDER
    /// of who was let go by a hub less than 30 s before.
    pub calls_failed: u64,
    /// Sessions that had lost their connection and have got another one, or ended without.
    pub returns: u64,
    /// Of these, those whose peer was not back within 5 s.
    pub returns_late: u64,
}

// === impl LastMinute ===

impl Add for LastMinute {
    type Output = Self;

    /// The sum of both.
    fn add(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }
}

impl Sub for LastMinute {
    type Output = Self;

    /// The increase since `before`, if both are totals.
    fn sub(self, before: Self) -> Self {
        self.each(before, u64::saturating_sub)
    }
}

impl LastMinute {
    fn each(self, other: Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            calls: with(self.calls, other.calls),
            calls_failed: with(self.calls_failed, other.calls_failed),
            returns: with(self.returns, other.returns),
            returns_late: with(self.returns_late, other.returns_late),
        }
    }
}
