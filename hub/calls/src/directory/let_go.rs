//! Spokes that are away because hubs let them go: they will come back by themselves.
//!
//! Invariants
//! - The memory is bounded: a spoke that does not fit is treated as if it had not been let go.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_protocol::SpokeName;
use tokio::time::Instant;

/// By then a spoke that was let go is back, or something is wrong.
const BACK: Duration = Duration::from_secs(30);

/// The most spokes that are remembered.
const SPOKES: usize = 10_000;

/// The memory is searched for old entries no more often than this.
const PRUNED: Duration = Duration::from_secs(1);

/// When the last instance of a spoke was let go.
#[derive(Debug, Default)]
pub(super) struct LetGo {
    spokes: HashMap<SpokeName, Instant>,
    pruned_at: Option<Instant>,
}

// === impl LetGo ===

impl LetGo {
    /// Notes that the last instance of a spoke was let go.
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

    /// Notes that a spoke is back.
    pub(super) fn remove(&mut self, spoke: &SpokeName) {
        self.spokes.remove(spoke);
    }

    /// Whether a spoke was let go a moment ago, and is not back yet.
    pub(super) fn has(&self, spoke: &SpokeName) -> bool {
        self.spokes.get(spoke).is_some_and(|at| is_recent(*at))
    }
}

/// Whether a spoke that was let go at this time may still be expected back.
pub(super) fn is_recent(at: Instant) -> bool {
    at.elapsed() < BACK
}
