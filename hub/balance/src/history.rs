//! What the last looks saw: the least that the pod held, and the most crowded that the cluster was.
//!
//! The figures of the pods are up to some seconds apart. While many connect, the own count is ahead of the others',
//! and while many move, a connection may be counted twice or not at all. Comparing the least of the one with the most
//! of the other lets such moments pass.

use std::collections::VecDeque;
use std::time::Duration;

/// One look: when, what the pod held, and connections by weight over all pods.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Duration,
    held: u32,
    mean: f64,
}

/// The looks of the last while, without a gap.
#[derive(Debug, Default)]
pub(crate) struct History {
    looks: VecDeque<Look>,
    since: Option<Duration>,
}

// === impl History ===

impl History {
    /// Forgets everything: what comes next stands alone.
    pub(crate) fn clear(&mut self) {
        self.looks.clear();
        self.since = None;
    }

    /// Adds a look, and drops those that are older than `keep`.
    pub(crate) fn add(&mut self, at: Duration, held: u32, mean: f64, keep: Duration) {
        self.since.get_or_insert(at);
        self.looks.push_back(Look { at, held, mean });
        while self.looks.front().is_some_and(|look| look.at + keep < at) {
            self.looks.pop_front();
        }
    }

    /// When the last look was.
    pub(crate) fn last(&self) -> Option<Duration> {
        self.looks.back().map(|look| look.at)
    }

    /// Whether it goes back for so long.
    pub(crate) fn covers(&self, time: Duration) -> bool {
        let covered = self.last().zip(self.since).map(|(last, since)| last - since);
        covered.is_some_and(|covered| covered >= time)
    }

    /// The least that the pod held within so long.
    pub(crate) fn least_held(&self, within: Duration) -> u32 {
        let last = self.last().unwrap_or_default();
        let looks = self.looks.iter().filter(|look| look.at + within >= last);
        looks.map(|look| look.held).min().unwrap_or(0)
    }

    /// The most that the cluster held, by weight.
    pub(crate) fn highest_mean(&self) -> f64 {
        self.looks.iter().map(|look| look.mean).fold(0.0, f64::max)
    }
}
