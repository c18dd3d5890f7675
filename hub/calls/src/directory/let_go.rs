//! Spokes that are away because hubs let them go: they come back by themselves.
//!
//! Invariants
//! - The memory is bounded: beyond that, nobody knows that a spoke was let go.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_protocol::SpokeName;
use tokio::time::Instant;

/// A spoke that was let go is back by then, or is missing.
const BACK: Duration = Duration::from_secs(30);

/// Spokes remembered at most.
const SPOKES: usize = 10_000;

/// The memory is looked through for old entries this often at most.
const PRUNED: Duration = Duration::from_secs(1);

/// When the last instance of a spoke was let go.
#[derive(Debug, Default)]
pub(super) struct LetGo {
    spokes: HashMap<SpokeName, Instant>,
    pruned_at: Option<Instant>,
}

// === impl LetGo ===

impl LetGo {
    /// The last instance of a spoke was let go.
    pub(super) fn add(&mut self, spoke: &SpokeName) {
        let now = Instant::now();
        if let Some(at) = self.spokes.get_mut(spoke) {
            *at = now;
            return;
        }
        let is_due = self.pruned_at.is_none_or(|at| now.duration_since(at) >= PRUNED);
        if self.spokes.len() >= SPOKES && is_due {
            self.spokes.retain(|_, at| is_recent(*at));
            self.pruned_at = Some(now);
        }
        if self.spokes.len() < SPOKES {
            self.spokes.insert(spoke.clone(), now);
        }
    }

    /// A spoke is back.
    pub(super) fn remove(&mut self, spoke: &SpokeName) {
        self.spokes.remove(spoke);
    }

    /// Whether a spoke was let go a moment ago, and is not back.
    pub(super) fn has(&self, spoke: &SpokeName) -> bool {
        self.spokes.get(spoke).is_some_and(|at| is_recent(*at))
    }
}

/// Whether who was let go then may be expected back.
pub(super) fn is_recent(at: Instant) -> bool {
    at.elapsed() < BACK
}
