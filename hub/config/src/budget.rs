//! How much the peers of a hub may make it keep.

use serde::{Deserialize, Serialize};

/// `[budget]`, `ALKHUB_BUDGET__*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BudgetConfig {
    /// Bytes kept for all keys together, beyond the first 2 MiB of each: what waits to be written, inputs of running
    /// calls, registrations, subscriptions; and what other hubs have not acknowledged. The default fits a memory limit
    /// of 512 MiB; too low refuses calls with `OVERLOADED` while memory is free, too high lets the kernel end the hub.
    pub hub_bytes: usize,
    /// Bytes kept for one key. Too low refuses a large pool of spokes or many large calls of one key; too high lets one
    /// key use up `hub-bytes`.
    pub key_bytes: usize,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            hub_bytes: 160 * 1024 * 1024,
            key_bytes: 64 * 1024 * 1024,
        }
    }
}
