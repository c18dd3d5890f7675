//! Pods that were lost: their peers are on their way to the other pods.
//!
//! A pod is lost when it is gone and did not drain before. So a roll-out loses none, and a peer that was let go is
//! never mistaken for one that lost its pod.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::membership::Membership;
use crate::rule::Rule;

/// The share of all connections that may still be missing when the peers of a lost pod count as back.
const STRAGGLERS: f64 = 0.01;

/// What a hub remembers about pods that were lost.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// The pods that were there to stay at the last look, with the connections of each.
    there: Vec<(Arc<str>, u32)>,
    last: Option<Loss>,
}

/// When a pod was lost, and how many connections all pods had together before.
#[derive(Clone, Copy, Debug)]
struct Loss {
    at: Duration,
    before: f64,
}

// === impl Losses ===

impl Losses {
    /// Looks for pods that are gone. `before` is the least that all pods had together in the recent past: the record of
    /// a dead pod still counts for some seconds, while its peers are on other pods already.
    pub(crate) fn look(&mut self, now: Duration, membership: &Membership, before: f64, rule: &Rule) {
        // For good: peers that are let go afterwards are missing too, and must not find full pods open.
        self.last = self.last.filter(|loss| loss.lasts(now, membership.total(), rule));
        let pods: HashSet<&str> = membership.members.iter().map(|member| &*member.pod).collect();
        // A pod with so few is no reason to move anything, nor to keep a door open.
        let mut gone = self.there.iter().filter(|(_, connections)| *connections > rule.slack);
        if gone.any(|(pod, _)| !pods.contains(&**pod)) {
            let before = self.last.map_or(before, |loss| loss.before.max(before));
            self.last = Some(Loss { at: now, before }).filter(|loss| loss.lasts(now, before, rule));
        }
        let stay = membership.members.iter().filter(|member| !member.draining);
        self.there.clear();
        self.there
            .extend(stay.map(|member| (Arc::clone(&member.pod), member.connections)));
    }

    /// Forgets which pods were there.
    pub(crate) fn forget(&mut self) {
        self.there.clear();
    }

    /// Whether, by the last look, peers of a lost pod are on their way.
    pub(crate) fn are_returning(&self) -> bool {
        self.last.is_some()
    }
}

// === impl Loss ===

impl Loss {
    /// Whether peers are on their way: for a while in any case, since the last of them are too few to show in the total
    /// of all pods, and for longer as long as the total shows that many are missing.
    fn lasts(self, now: Duration, total: f64, rule: &Rule) -> bool {
        let lacks_many = total < self.before * (1.0 - STRAGGLERS);
        now < self.at + rule.lost && (lacks_many || now < self.at + rule.settle)
    }
}
