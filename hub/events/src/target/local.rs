//! Events in process: the table of the bus is all there is.

use alkhub_redis::{Expiry, Idle};

use crate::table::Table;

/// No other process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

// === impl Local ===

impl Local {
    /// Nothing to do: the bus has pushed to every subscriber there is.
    #[expect(clippy::unused_self, reason = "the same shape as the other targets")]
    pub(crate) fn carry(self) {}

    /// Forgets the entry at once: there is no transport to spare.
    #[expect(clippy::unused_self, reason = "the same shape as the other targets")]
    pub(crate) fn release(self, table: &Table, mut idle: Idle) {
        while let Expiry::Again(later) = table.expire(&idle) {
            idle = later;
        }
    }
}
