//! The keys that `dedupe` has seen lately.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::step::Share;

/// What a key costs besides its text, in bytes.
const OVERHEAD: usize = 96;

/// Keys in the order in which they were first seen.
#[derive(Debug, Default)]
pub(super) struct Recent {
    order: VecDeque<(Instant, Arc<str>)>,
    keys: HashSet<Arc<str>>,
    bytes: usize,
}

// === impl Recent ===

impl Recent {
    /// Whether a key is new. It is remembered for a time from now, unless so many newer ones come that it must be forgotten.
    pub(super) fn is_new(&mut self, key: &str, now: Instant, time: Duration, most: Share) -> bool {
        while self
            .order
            .front()
            .is_some_and(|(seen, _)| now.saturating_duration_since(*seen) >= time)
        {
            self.forget();
        }
        if self.keys.contains(key) {
            return false;
        }
        let cost = key.len() + OVERHEAD;
        while !self.order.is_empty() && (self.order.len() >= most.items || self.bytes + cost > most.bytes) {
            self.forget();
        }
        let key: Arc<str> = key.into();
        self.keys.insert(Arc::clone(&key));
        self.order.push_back((now, key));
        self.bytes += cost;
        true
    }

    pub(super) fn kept(&self) -> (usize, usize) {
        (self.order.len(), self.bytes)
    }

    fn forget(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.keys.remove(&key);
            self.bytes -= key.len() + OVERHEAD;
        }
    }
}
