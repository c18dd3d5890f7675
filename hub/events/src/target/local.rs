//! Events within the process: the table of the bus is all there is.

use alkhub_redis::{Expiry, Idle};

use crate::table::Table;

/// There is no other process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

// === impl Local ===

impl Local {
    /// Nothing to do: the bus has already pushed to every subscriber.
    #[expect(clippy::unused_self, reason = "the same shape as the other targets")]
    pub(crate) fn carry(self) {}

    /// Forgets the entry at once: there is no transport that would be spared by waiting.
    #[expect(clippy::unused_self, reason = "the same shape as the other targets")]
    pub(crate) fn release(self, table: &Table, mut idle: Idle) {
        while let Expiry::Again(later) = table.expire(&idle) {
            idle = later;
        }
    }
}
