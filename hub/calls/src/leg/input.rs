//! The input of a running call, for as long as it may have to be sent to somebody.
//!
//! Invariants
//! - It is charged to the caller's key, and gone when a spoke of this hub has it on its way: from then on the call is
//!   never sent again.

use alkhub_budget::Held;
use alkhub_protocol::{CallRequest, RawJson};
use parking_lot::Mutex;

/// The approximate cost of a running call beside its input and its metadata.
pub(crate) const CALL_BYTES: usize = 1024;

/// The bytes that a running call costs without its input.
pub(crate) fn bare_bytes(request: &CallRequest) -> usize {
    CALL_BYTES + request.metadata.as_ref().map_or(0, |metadata| metadata.raw().len())
}

/// An input with its charge.
#[derive(Debug)]
pub(crate) struct Input {
    /// Its length, which is recorded.
    pub(crate) bytes: usize,
    /// Whether there is one; else `null` stands for it.
    pub(crate) is_given: bool,
    /// The bytes that stay charged without it.
    bare_bytes: usize,
    kept: Mutex<(Option<RawJson>, Held)>,
}

// === impl Input ===

impl Input {
    /// Takes the input out of a request: it is kept for a shorter time. `held` covers it and [`bare_bytes`].
    pub(crate) fn of(mut request: CallRequest, held: Held) -> (CallRequest, Self) {
        let input = request.input.take();
        (request, Self::new(input, held))
    }

    /// Keeps an input; `held` covers it and [`bare_bytes`].
    pub(crate) fn new(input: Option<RawJson>, held: Held) -> Self {
        let is_given = input.is_some();
        let input = input.unwrap_or_else(RawJson::null);
        Self {
            bytes: input.len(),
            is_given,
            bare_bytes: held.bytes().saturating_sub(input.len()),
            kept: Mutex::new((Some(input), held)),
        }
    }

    /// The input, or the `null` in its place; `None` when it was delivered.
    pub(crate) fn json(&self) -> Option<RawJson> {
        self.kept.lock().0.clone()
    }

    /// A spoke has it on its way.
    pub(crate) fn delivered(&self) {
        let mut kept = self.kept.lock();
        let input = kept.0.take();
        kept.1.shrink(self.bare_bytes);
        drop(kept);
        drop(input);
    }
}
