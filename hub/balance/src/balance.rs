//! The decision itself: what a hub remembers between two looks, and what it decides at each.

use std::sync::Arc;
use std::time::Duration;

use crate::choice::{Movable, Move, Order, Targets};
use crate::entrance::{Entrance, Sign, Upgrade};
use crate::history::{History, PastLook};
use crate::levels::{Levels, enough};
use crate::look::BalanceLook;
use crate::losses::Losses;
use crate::membership::{Member, Membership, Own};
use crate::rule::Rule;

/// The share of all connections that may be missing while plain peers are still let go.
const MISSING: f64 = 0.05;

/// What a hub does after a look.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Nothing moves.
    Hold(Why),
    /// Some connections go: [`Balance::choose`] says which.
    Move(Order),
}

/// Why nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The membership is old, or does not list this hub: nobody knows what the others hold.
    Stale,
    /// No other pod takes connections.
    Alone,
    /// The hub has not watched for long enough.
    Watching,
    /// The hub is not above its goal, or has not been above it for long enough.
    Even,
    /// The hub moved its excess a moment ago.
    Resting,
    /// A roll-out moves connections, and each should move once.
    RollOut,
    /// No pod is below the mean.
    NobodyLighter,
    /// The pace does not allow a whole move yet; fractions add up.
    Pace,
}

/// What one hub remembers from look to look. It starts with nothing, and again after every loss of Redis.
#[derive(Debug)]
pub struct Balance {
    rule: Rule,
    history: History,
    losses: Losses,
    entrance: Entrance,
    random: fastrand::Rng,
    /// Whether the hub is giving its excess away, and when it last finished doing so.
    shedding: bool,
    rested_at: Option<Duration>,
    /// The number of all connections when shedding began, or ten minutes after the previous baseline.
    baseline: Option<Baseline>,
    draining_since: Option<Duration>,
    rollout: Rollout,
    /// What the pace has added up to, below one.
    credit: f64,
    decided_at: Option<Duration>,
    /// The goal by the last look.
    goal: Option<u32>,
}

/// How many connections all pods had together at some time.
#[derive(Clone, Copy, Debug)]
struct Baseline {
    at: Duration,
    total: f64,
}

/// When something last happened in a roll-out.
#[derive(Clone, Copy, Debug, Default)]
struct Rollout {
    members: usize,
    mixed: bool,
    changed_at: Option<Duration>,
}

// === impl Balance ===

impl Balance {
    /// A balance that has seen nothing yet. The seed drives its random choices; each hub needs a different one.
    pub fn new(rule: Rule, seed: u64) -> Self {
        Self {
            rule,
            history: History::default(),
            losses: Losses::default(),
            entrance: Entrance::new(),
            random: fastrand::Rng::with_seed(seed),
            shedding: false,
            rested_at: None,
            baseline: None,
            draining_since: None,
            rollout: Rollout::default(),
            credit: 0.0,
            decided_at: None,
            goal: None,
        }
    }

    /// Looks at the pods, once a second. The cost grows with the number of pods, not with what the hub holds.
    pub fn decide(&mut self, now: Duration, membership: &Membership, own: Own) -> Decision {
        let membership = &*membership.certain();
        let since = now.saturating_sub(self.decided_at.replace(now).unwrap_or(now));
        let me = membership.me();
        if !own.draining && me.is_none_or(|me| !me.draining) {
            self.draining_since = None;
        }
        let stale = now > membership.read_at + self.rule.fresh || since > self.rule.fresh;
        let Some(me) = me.filter(|_| !stale) else {
            return self.hold_static(now);
        };
        self.losses
            .look(now, membership, self.history.least_total(), &self.rule);
        let rolling = self.is_rolling(now, membership);
        let others = membership.serving(own).filter(|member| member.pod != me.pod);
        if others.map(|member| u64::from(member.weight)).sum::<u64>() == 0 {
            self.history.clear();
            self.stop(now);
            self.entrance.set(now, Sign::Open);
            self.goal = None;
            return Decision::Hold(Why::Alone);
        }
        let mut look = BalanceLook::new(&self.rule, now, membership, own, me);
        let seen = PastLook {
            at: now,
            held: own.staying,
            total: look.total,
            weight: membership.weight(own),
        };
        self.history.add(seen, self.rule.settle);

        look.levels = Levels::new(&self.rule, self.history.highest_mean(), now, membership.rebalance);
        look.rolling = rolling;
        self.goal = Some(whole(look.levels.goal(me.weight)));
        let sign = self.sign(&look);
        self.entrance.set(now, sign);

        let pace = since.as_secs_f64().min(2.0) * self.part_of_budget(&look.levels, membership, own);
        if look.is_drain() {
            self.drain(now, &look, pace)
        } else {
            self.shed(now, &look, pace)
        }
    }

    /// Replaces a look while nothing is balanced and the pod does not drain: everybody is welcome, and what was seen is
    /// forgotten, so that a later drain counts as a new one.
    pub fn pause(&mut self, now: Duration) {
        self.decided_at = Some(now);
        self.draining_since = None;
        self.hold_static(now);
    }

    /// The most connections that the pod keeps, by the last look; `None` if there is no other pod, or none is known.
    pub fn goal(&self) -> Option<u32> {
        self.goal
    }

    /// Names the connections that go, in one walk over all of the hub's connections that have not been told to go yet.
    ///
    /// It may name fewer than the order says, if too few can go or all of them were moved here a moment ago.
    pub fn choose<'a, C: Copy>(
        &mut self,
        now: Duration,
        order: &Order,
        movables: impl Iterator<Item = Movable<'a, C>>,
    ) -> Vec<Move<C>> {
        order.choose(now, self.rule.stay, movables, &mut self.random)
    }

    /// Whether a new connection that no hub has sent here is welcome. `source` is anything that tells peers apart
    /// before they are authenticated, such as a hash of the address and the key's text.
    pub fn admit(&mut self, now: Duration, source: u64) -> Upgrade {
        self.entrance.admit(now, source, &self.rule, &mut self.random)
    }

    /// The pod that should get a connection that has to go because its hub ends: drawn as for a drain, from what the
    /// pods hold now. `beside` is the pod of the instance's other session. `None` if nobody knows what the others hold,
    /// or if no other pod takes connections.
    pub fn refuge(&mut self, now: Duration, membership: &Membership, beside: Option<&str>) -> Option<Arc<str>> {
        let membership = &*membership.certain();
        let me = membership
            .me()
            .filter(|_| now <= membership.read_at + self.rule.fresh)?;
        let own = Own {
            staying: me.connections,
            draining: true,
        };
        let look = BalanceLook::new(&self.rule, now, membership, own, me);
        look.targets_of_drain().draw(beside, true, &mut self.random)
    }

    /// The decision while nobody knows what the others hold: nothing moves, and everybody is welcome.
    fn hold_static(&mut self, now: Duration) -> Decision {
        self.history.clear();
        self.losses.forget();
        self.stop(now);
        self.entrance.set(now, Sign::Open);
        self.goal = None;
        Decision::Hold(Why::Stale)
    }

    fn stop(&mut self, now: Duration) {
        if self.shedding {
            self.rested_at = Some(now);
        }
        self.shedding = false;
        self.credit = 0.0;
    }

    /// Whether a roll-out is moving connections: there are two revisions, and something has happened not long ago.
    fn is_rolling(&mut self, now: Duration, membership: &Membership) -> bool {
        let draining = membership.members.iter().any(|member| member.draining);
        let (members, mixed) = (membership.members.len(), membership.is_mixed());
        if draining || (members, mixed) != (self.rollout.members, self.rollout.mixed) {
            self.rollout.changed_at = Some(now);
        }
        (self.rollout.members, self.rollout.mixed) = (members, mixed);
        let quiet = self.rollout.changed_at.is_none_or(|at| now >= at + self.rule.paused);
        mixed && !quiet
    }

    /// The sign at the door for new connections.
    fn sign(&self, look: &BalanceLook<'_>) -> Sign {
        let (membership, own, me, levels) = (look.membership, look.own, look.me, &look.levels);
        if look.is_drain() {
            return Sign::Leaving;
        }
        if self.losses.are_returning() {
            return Sign::Open; // A refusal would keep those peers away for longer than necessary.
        }
        let Some(raise) = levels.raise(membership, own) else {
            return Sign::Open;
        };
        let newest = membership.newest(own);
        if look.rolling && Some(me.revision) != newest {
            let new = membership.serving(own).filter(|m| Some(m.revision) == newest);
            let taking = new.filter(|member| levels.takes(member, 0.0)).count();
            if taking >= enough(membership.serving(own).count()) {
                return Sign::Shut;
            }
        }
        let held = self.history.least_held(self.rule.lag);
        let over = f64::from(held) + 1.0 > levels.door(me.weight) + raise;
        if over && self.history.covers(self.rule.lag) {
            Sign::Shut
        } else {
            Sign::Open
        }
    }

    /// The share of its pace that each pod may use, so that all of them together stay within the budget.
    fn part_of_budget(&self, levels: &Levels, membership: &Membership, own: Own) -> f64 {
        let wanted = |member: &Member| {
            let held = f64::from(member.connections);
            let leaves = member.draining || own.draining && member.pod == membership.own;
            match held - levels.goal(member.weight) {
                _ if leaves => self.drain_pace(levels, member.connections, member.weight),
                over if over > 0.0 => self.pace(over),
                _ => 0.0,
            }
        };
        let all: f64 = membership.members.iter().map(wanted).sum();
        (self.rule.budget / all.max(1.0)).min(1.0)
    }

    /// Moves per second for balance.
    fn pace(&self, excess: f64) -> f64 {
        let pace = excess / self.rule.spread.as_secs_f64();
        pace.clamp(self.rule.slowest, self.rule.fastest)
    }

    /// Moves per second of a drain. The pace is steady, and every pod can work it out for the others, because a pod
    /// begins with about its part of the mean.
    fn drain_pace(&self, levels: &Levels, connections: u32, weight: u32) -> f64 {
        let began_with = f64::from(connections).max(levels.mean * f64::from(weight));
        let pace = began_with / self.rule.drain.as_secs_f64();
        pace.clamp(self.rule.slowest, self.rule.budget)
    }

    fn drain(&mut self, now: Duration, look: &BalanceLook<'_>, pace: f64) -> Decision {
        self.shedding = false;
        let left = look.own.staying;
        let begins = self.draining_since.is_none();
        let since = *self.draining_since.get_or_insert(now);
        if left > self.rule.few {
            if now < since + self.rule.lag {
                return Decision::Hold(Why::Watching); // Pods that begin to drain together must first know of each other.
            }
        } else if begins {
            self.credit = 1.0; // The first of a few goes at once.
        }
        let targets = look.targets_of_drain();
        if targets.is_empty() {
            return Decision::Hold(Why::NobodyLighter);
        }
        let count = self.earn(self.drain_pace(&look.levels, left, look.me.weight) * pace, left);
        order(count, count, true, targets)
    }

    fn shed(&mut self, now: Duration, look: &BalanceLook<'_>, pace: f64) -> Decision {
        let (own, me, levels) = (look.own, look.me, &look.levels);
        let goal = levels.goal(me.weight);
        let excess = f64::from(own.staying) - goal;
        if look.rolling || excess <= 0.0 {
            self.stop(now);
            return Decision::Hold(if look.rolling { Why::RollOut } else { Why::Even });
        }
        if !self.shedding {
            let resting = self.rested_at.is_some_and(|at| now < at + self.rule.rest);
            let lasting = f64::from(self.history.least_held(self.rule.settle)) > goal;
            match (self.history.covers(self.rule.settle), lasting, resting) {
                (false, _, _) => return Decision::Hold(Why::Watching),
                (true, false, _) => return Decision::Hold(Why::Even),
                (true, true, true) => return Decision::Hold(Why::Resting),
                (true, true, false) => {
                    let total = look.total;
                    (self.shedding, self.baseline) = (true, Some(Baseline { at: now, total }));
                }
            }
        }
        let targets = look.targets_of_balance();
        if targets.is_empty() {
            self.stop(now);
            return Decision::Hold(Why::NobodyLighter);
        }
        let raise = levels.raise(look.membership, own).unwrap_or(0.0);
        let most = whole(excess);
        // Plain peers may land anywhere. So none is let go if refusing is of no use, while even full pods take peers,
        // or if it might land on an older revision.
        let kept = self.entrance.is_in_vain(now)
            || self.losses.are_returning()
            || self.are_missing(now, look.total)
            || look.membership.is_mixed();
        let plain = if kept { 0 } else { whole(excess - raise) };
        let count = self.earn(self.pace(excess) * pace, most);
        order(count, count.min(plain as usize), false, targets)
    }

    /// Whether there are fewer connections than when the hub began to let go: some are still on their way, or do not
    /// come back. Each one that stays away lowers the mean, so without this check the pods would let go of more and
    /// more.
    fn are_missing(&mut self, now: Duration, total: f64) -> bool {
        let baseline = self.baseline.get_or_insert(Baseline { at: now, total });
        if now >= baseline.at + self.rule.stay {
            *baseline = Baseline { at: now, total };
        }
        total < baseline.total * (1.0 - MISSING)
    }

    /// Adds what the pace has earned, and spends the whole part.
    fn earn(&mut self, moves: f64, most: u32) -> usize {
        self.credit += moves;
        let count = whole(self.credit).min(most);
        self.credit = (self.credit - f64::from(count)).min(1.0);
        count as usize
    }
}

/// An order for `count` moves, or none if that is zero.
fn order(count: usize, plain: usize, drain: bool, targets: Targets) -> Decision {
    if count == 0 {
        return Decision::Hold(Why::Pace);
    }
    Decision::Move(Order {
        count,
        plain,
        drain,
        targets,
    })
}

/// The whole part of a number; 0 for a negative one.
fn whole(number: f64) -> u32 {
    number as u32 // Saturates.
}
