//! The items of one subscription that wait in a shared queue.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Items of one subscription that the writer has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

// === impl Backlog ===

impl Backlog {
    /// Whether another item of `size` bytes stays within the bounds; an empty backlog accepts any item.
    pub(crate) fn has_room(&self, size: usize, items: usize, bytes: usize) -> bool {
        let waiting = self.items.load(Ordering::Acquire);
        waiting == 0 || (waiting < items && self.bytes.load(Ordering::Acquire) + size <= bytes)
    }

    pub(super) fn add(&self, size: usize) {
        self.items.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(size, Ordering::AcqRel);
    }

    pub(super) fn remove(&self, size: usize) {
        self.items.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(size, Ordering::AcqRel);
    }
}
