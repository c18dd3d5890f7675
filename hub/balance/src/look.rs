//! The subject of one look, and where connections may go according to it.

use std::time::Duration;

use crate::choice::Targets;
use crate::levels::Levels;
use crate::membership::{Member, Membership, Own};
use crate::rule::Rule;

/// The subject of one look.
pub(crate) struct BalanceLook<'a> {
    pub(crate) membership: &'a Membership,
    pub(crate) own: Own,
    pub(crate) me: &'a Member,
    /// Connections of all pods.
    pub(crate) total: f64,
    /// The levels at the most crowded moment of the recent past.
    pub(crate) levels: Levels,
    /// The levels at this moment.
    pub(crate) current: Levels,
    pub(crate) rolling: bool,
}

// === impl BalanceLook ===

impl<'a> BalanceLook<'a> {
    /// A look at this moment alone, without anything that is remembered of the past.
    pub(crate) fn new(rule: &Rule, now: Duration, membership: &'a Membership, own: Own, me: &'a Member) -> Self {
        let total = membership.total();
        let mean = total / membership.weight(own).max(1.0);
        let current = Levels::new(rule, mean, now, membership.rebalance);
        Self {
            membership,
            own,
            me,
            total,
            levels: current,
            current,
            rolling: false,
        }
    }

    /// Whether the own pod gives all of its connections away.
    pub(crate) fn is_drain(&self) -> bool {
        self.own.draining || self.me.draining
    }

    /// The other pods that take connections and whose revision qualifies.
    fn takers(&self, revision: impl Fn(u64) -> bool) -> Vec<&Member> {
        let serving = self.membership.serving(self.own);
        let others = serving.filter(|member| member.pod != self.me.pod && member.weight > 0);
        others.filter(|member| revision(member.revision)).collect()
    }

    /// The pods below the mean that are of this hub's revision or the newest.
    pub(crate) fn targets_of_balance(&self) -> Targets {
        let newest = self.membership.newest(self.own);
        let takers = self.takers(|revision| revision == self.me.revision || Some(revision) == newest);
        Targets::new(takers.iter().map(|member| (&member.pod, self.current.deficit(member))))
    }

    /// Pods of the newest revision, as far as they have room: first those below the mean, then those below their goal,
    /// then those that may be crowded for a while. If none of them has room, all pods that serve, in the same order.
    pub(crate) fn targets_of_drain(&self) -> Targets {
        let newest = self.membership.newest(self.own);
        let (new, all) = (self.takers(|revision| Some(revision) == newest), self.takers(|_| true));
        for takers in [&new, &all] {
            for part in [Levels::deficit, Levels::room, Levels::crowded_room] {
                let targets = Targets::new(takers.iter().map(|member| (&member.pod, part(&self.current, member))));
                if !targets.is_empty() {
                    return targets;
                }
            }
        }
        Targets::new(all.iter().map(|member| (&member.pod, f64::from(member.weight))))
    }
}
