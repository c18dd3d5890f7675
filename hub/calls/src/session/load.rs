//! How many calls run on an instance, as far as this hub knows.

use std::sync::atomic::{AtomicU32, Ordering};

/// Calls that run on an instance.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU32);

// === impl Load ===

impl Load {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a slot unless all are taken.
    pub(crate) fn reserve(&self, slots: Option<u32>) -> bool {
        let slots = slots.unwrap_or(u32::MAX);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |busy| {
                (busy < slots).then_some(busy + 1)
            })
            .is_ok()
    }

    pub(crate) fn release(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
