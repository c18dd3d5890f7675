//! How many calls run on an instance, as far as this hub knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many calls run on an instance.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU32);

/// The slots of an instance that another hub's calls take; given back when this is dropped.
#[derive(Debug)]
pub struct OccupiedSlots {
    load: Arc<Load>,
    occupied: u32,
}

// === impl Load ===

impl Load {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a slot, unless all are taken.
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

// === impl OccupiedSlots ===

impl OccupiedSlots {
    pub(crate) fn new(load: &Arc<Load>) -> Self {
        let load = Arc::clone(load);
        Self { load, occupied: 0 }
    }

    /// Takes slots or gives some back, until it has this many. Running calls get them whether or not they are free.
    pub fn occupy(&mut self, calls: u32) {
        if calls > self.occupied {
            self.load.0.fetch_add(calls - self.occupied, Ordering::AcqRel);
        } else {
            self.load.0.fetch_sub(self.occupied - calls, Ordering::AcqRel);
        }
        self.occupied = calls;
    }
}

impl Drop for OccupiedSlots {
    fn drop(&mut self) {
        self.occupy(0);
    }
}
