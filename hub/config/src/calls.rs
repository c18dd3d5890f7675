//! Calls.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[calls]`, `ALKHUB_CALLS__*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CallsConfig {
    /// A call without a deadline of its own fails after this long.
    #[serde(with = "humantime_serde")]
    pub default_timeout: Duration,
    /// No call runs for longer, whatever its caller asks for. Subscriptions have no end of their own.
    #[serde(with = "humantime_serde")]
    pub max_timeout: Duration,
    /// Calls running at once on this hub; over it `OVERLOADED`.
    pub max_in_flight: usize,
    /// Calls of one key running at once on this hub; over it `OVERLOADED`.
    pub max_in_flight_per_key: usize,
    /// Items of one subscription waiting for its reader; over it that subscription ends with `OVERLOADED`. Generous:
    /// `subscription-bytes` is the bound that counts, so that a burst of small items passes.
    pub subscription_items: usize,
    /// Bytes of one subscription waiting for its reader; over it that subscription ends with `OVERLOADED`. Too low ends
    /// those of readers that fall behind for a moment; too high lets slow ones use up `budget.key-bytes`.
    pub subscription_bytes: usize,
    /// Operations that one instance may offer, 10,000 at most.
    pub max_operations: usize,
    /// Memory that the specifications of one spoke's operations may take on a hub when they are compiled, in bytes.
    /// Too low: a registration with many patterns or large schemas is refused. Too high: one key can fill a hub.
    pub spec_bytes_per_spoke: usize,
    /// Memory that all compiled specifications may take on a hub, in bytes. Too low: operations of the fleet cannot be
    /// called by way of this hub. Too high: the hub runs out of memory.
    pub spec_bytes: usize,
    /// Calls of other hubs' callers running at once on this hub; over it `OVERLOADED`. A key may run only as many of them
    /// as it leaves free: a single key half of them, two keys a third each. Too low refuses a busy key's calls while
    /// the hub has room; too high lets many keys fill it.
    pub relay_queue: usize,
    /// Call records waiting to be written, of about 500 bytes and 2 KiB at most each; over it they are dropped and counted.
    /// Too low loses records while Postgres is away for a moment; too high runs out of memory while it stays away.
    pub record_queue: usize,
    /// Call records are kept for this long.
    #[serde(with = "humantime_serde")]
    pub record_retention: Duration,
    /// A spoke that no resource declares, and that has no key, is forgotten when it was not connected for this long.
    #[serde(with = "humantime_serde")]
    pub undeclared_retention: Duration,
    /// An operation's specification is kept for this long after it was last offered. Too short and a call of an operation
    /// whose spokes are away gets `OPERATION_NOT_FOUND` instead of `NO_PROVIDER`; too long keeps rows that nobody needs.
    /// At least a day: what is offered is noted once an hour.
    #[serde(with = "humantime_serde")]
    pub operation_retention: Duration,
}

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(30),
            max_timeout: Duration::from_secs(3600),
            max_in_flight: 50_000,
            max_in_flight_per_key: 10_000,
            subscription_items: 65_536,
            subscription_bytes: 4 * 1024 * 1024,
            max_operations: 1_000,
            spec_bytes_per_spoke: 32 * 1024 * 1024,
            spec_bytes: 128 * 1024 * 1024,
            relay_queue: 16_384,
            record_queue: 65_536,
            record_retention: Duration::from_secs(24 * 3600),
            undeclared_retention: Duration::from_secs(30 * 24 * 3600),
            operation_retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}
