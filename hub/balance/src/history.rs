//! What recent looks saw: the least that the pod held, and the most crowded that the cluster was.
//!
//! The pods' figures are up to some seconds apart in time. While many peers connect, the pod's own count is ahead of
//! the others', and while many move, a connection may be counted twice or not at all. Comparing the least of the one
//! with the most of the other lets such moments pass.

use std::collections::VecDeque;
use std::time::Duration;

/// What one look saw: when it was, what the pod held, and the connections and weight of all pods together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PastLook {
    pub(crate) at: Duration,
    pub(crate) held: u32,
    pub(crate) total: f64,
    pub(crate) weight: f64,
}

/// The looks of the recent past, without a gap.
#[derive(Debug, Default)]
pub(crate) struct History {
    looks: VecDeque<PastLook>,
    since: Option<Duration>,
}

// === impl History ===

impl History {
    /// Forgets everything: the next look stands alone.
    pub(crate) fn clear(&mut self) {
        self.looks.clear();
        self.since = None;
    }

    /// Adds what a look saw, and drops what is older than `keep`.
    pub(crate) fn add(&mut self, seen: PastLook, keep: Duration) {
        self.since.get_or_insert(seen.at);
        self.looks.push_back(seen);
        while self.looks.front().is_some_and(|look| look.at + keep < seen.at) {
            self.looks.pop_front();
        }
    }

    /// When the last look was.
    pub(crate) fn last(&self) -> Option<Duration> {
        self.looks.back().map(|look| look.at)
    }

    /// Whether the history reaches back that far.
    pub(crate) fn covers(&self, time: Duration) -> bool {
        let covered = self.last().zip(self.since).map(|(last, since)| last - since);
        covered.is_some_and(|covered| covered >= time)
    }

    /// The least that the pod held within that time.
    pub(crate) fn least_held(&self, within: Duration) -> u32 {
        let last = self.last().unwrap_or_default();
        let looks = self.looks.iter().filter(|look| look.at + within >= last);
        looks.map(|look| look.held).min().unwrap_or(0)
    }

    /// The highest mean of the cluster, in connections by weight.
    pub(crate) fn highest_mean(&self) -> f64 {
        let means = self.looks.iter().map(|look| look.total / look.weight);
        means.fold(0.0, f64::max)
    }

    /// The least that all pods held together; 0 where there was no look.
    pub(crate) fn least_total(&self) -> f64 {
        let totals = self.looks.iter().map(|look| look.total);
        totals.reduce(f64::min).unwrap_or(0.0)
    }
}
