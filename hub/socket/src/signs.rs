//! Signs that others raise for a task, one bit each, and the waker of that task.

use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;

/// The signs for one task.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    raised: AtomicU8,
    waker: AtomicWaker,
}

// === impl Signs ===

impl Signs {
    /// Registers the task that looks at them.
    pub(crate) fn wake_by(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Wakes the task.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Raises a sign, and wakes the task.
    pub(crate) fn raise(&self, sign: u8) {
        self.raised.fetch_or(sign, Ordering::AcqRel);
        self.wake();
    }

    /// Lowers a sign; nobody is woken.
    pub(crate) fn lower(&self, sign: u8) {
        self.raised.fetch_and(!sign, Ordering::AcqRel);
    }

    /// Whether a sign is raised.
    pub(crate) fn has(&self, sign: u8) -> bool {
        self.raised.load(Ordering::Acquire) & sign != 0
    }

    /// Whether a sign is raised; asking lowers it. Cheap if it is not raised.
    pub(crate) fn take(&self, sign: u8) -> bool {
        self.raised.load(Ordering::Relaxed) & sign != 0 && self.raised.fetch_and(!sign, Ordering::AcqRel) & sign != 0
    }
}
