//! Sessions that are coming to this hub, or may be: a hub that is ending waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there are.
#[derive(Debug, Default)]
pub(crate) struct Coming(Arc<AtomicUsize>);

/// Counts a session that is coming to this hub, or may be, for as long as this lives.
#[derive(Debug)]
pub(crate) struct ComingGuard(Arc<AtomicUsize>);

// === impl Coming ===

impl Coming {
    /// Adds one.
    pub(crate) fn enter(&self) -> ComingGuard {
        self.0.fetch_add(1, Ordering::AcqRel);
        ComingGuard(Arc::clone(&self.0))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for ComingGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
