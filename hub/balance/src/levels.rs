//! How much each pod should hold at most, and how far each pod is from that.

use std::time::Duration;

use crate::membership::{Member, Membership, Own};
use crate::rule::Rule;

/// One in this many of the pods that a load balancer may choose must take a connection before another pod refuses it.
const ONE_IN: usize = 8;

/// The levels of the pods that follow from a mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    /// Connections by weight.
    pub(crate) mean: f64,
    factor: f64,
    crowded: f64,
    slack: u32,
}

// === impl Levels ===

impl Levels {
    /// The levels for a mean. For a while after an order to rebalance they leave no slack.
    pub(crate) fn new(rule: &Rule, mean: f64, now: Duration, rebalance: Option<Duration>) -> Self {
        let ordered = rebalance.is_some_and(|at| at <= now && now < at + rule.rebalance);
        Self {
            mean,
            factor: rule.factor,
            crowded: rule.crowded,
            slack: if ordered { 0 } else { rule.slack },
        }
    }

    /// A pod of this weight that holds more gives some of its connections away.
    pub(crate) fn goal(&self, weight: u32) -> f64 {
        (self.mean * f64::from(weight) * self.factor).ceil() + f64::from(self.slack)
    }

    /// A pod of this weight that holds as much refuses new connections: a little before it would have to give some
    /// away.
    pub(crate) fn door(&self, weight: u32) -> f64 {
        self.goal(weight) - f64::from(self.slack / 2)
    }

    /// What a pod of the newest revision may hold while older ones give theirs away, so that no connection goes to an
    /// old pod only because the new ones are as unequal as the old ones were.
    fn crowded(&self, weight: u32) -> f64 {
        (self.mean * f64::from(weight) * self.crowded).ceil() + f64::from(self.slack)
    }

    /// How far a pod is below its part of the mean; 0 when it is not.
    pub(crate) fn deficit(&self, member: &Member) -> f64 {
        (self.mean * f64::from(member.weight) - f64::from(member.connections)).max(0.0)
    }

    /// How far a pod is below its goal; 0 when it is not.
    pub(crate) fn room(&self, member: &Member) -> f64 {
        (self.goal(member.weight) - f64::from(member.connections)).max(0.0)
    }

    /// Whether a pod takes one more connection if its level is raised by `raise`.
    pub(crate) fn takes(&self, member: &Member, raise: f64) -> bool {
        f64::from(member.connections) + 1.0 <= self.door(member.weight) + raise
    }

    /// How far a pod is below what it may hold during a roll-out; 0 when it is not.
    pub(crate) fn crowded_room(&self, member: &Member) -> f64 {
        (self.crowded(member.weight) - f64::from(member.connections)).max(0.0)
    }

    /// By how much all levels are raised for connections that a load balancer places, so that one in eight of the pods
    /// takes them. `None` when there is no other pod.
    pub(crate) fn raise(&self, membership: &Membership, own: Own) -> Option<f64> {
        let mut over: Vec<f64> = membership
            .serving(own)
            .filter(|member| member.pod != membership.own)
            .map(|member| f64::from(member.connections) + 1.0 - self.door(member.weight))
            .collect();
        if over.is_empty() {
            return None;
        }
        let enough = enough(over.len() + 1) - 1;
        let (_, raise, _) = over.select_nth_unstable_by(enough, f64::total_cmp);
        Some(raise.max(0.0))
    }
}

/// How many of `pods` pods must take a connection before another pod refuses it.
pub(crate) fn enough(pods: usize) -> usize {
    pods.div_ceil(ONE_IN)
}
