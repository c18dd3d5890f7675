//! The decision itself: what a hub keeps between two looks, and what it does at each.

use std::time::Duration;

use crate::choice::{Movable, Move, Order, Targets};
use crate::entrance::{Entrance, Sign, Upgrade};
use crate::history::History;
use crate::levels::{Levels, enough};
use crate::membership::{Member, Membership, Own};
use crate::rule::Rule;

/// The part of all connections that may be missing while plain peers are let go.
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
    /// The membership is old, or does not have this hub: nobody knows what the others hold.
    Stale,
    /// No other pod takes connections.
    Alone,
    /// The hub has not watched for long enough.
    Watching,
    /// The hub is not above its goal, or has not been for long enough.
    Even,
    /// The hub moved its excess a moment ago.
    Resting,
    /// A roll-out moves connections, and each should move once.
    RollOut,
    /// No pod is below the mean.
    NobodyLighter,
    /// The pace allows none yet; it adds up to one.
    Pace,
}

/// What one hub remembers from look to look. It begins with nothing, and after a loss of Redis so it does again.
#[derive(Debug)]
pub struct Balance {
    rule: Rule,
    history: History,
    entrance: Entrance,
    random: fastrand::Rng,
    /// Whether the hub gives its excess away, and when it last was done with that.
    shedding: bool,
    rested_at: Option<Duration>,
    /// All connections when it began to, or ten minutes later.
    baseline: Option<Baseline>,
    draining_since: Option<Duration>,
    rollout: Rollout,
    /// What the pace has added up to, below one.
    credit: f64,
    decided_at: Option<Duration>,
    /// Of the last look.
    goal: Option<u32>,
}

/// What all pods had together at some time.
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
    /// That of a hub that has seen nothing. The seed decides what it draws by chance; each hub has another one.
    pub fn new(rule: Rule, seed: u64) -> Self {
        Self {
            rule,
            history: History::default(),
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

    /// Looks at the pods, once a second. It costs as much as there are pods, whatever the hub holds.
    pub fn decide(&mut self, now: Duration, membership: &Membership, own: Own) -> Decision {
        let since = now.saturating_sub(self.decided_at.replace(now).unwrap_or(now));
        let me = membership.me();
        if !own.draining && me.is_none_or(|me| !me.draining) {
            self.draining_since = None;
        }
        let stale = now > membership.read_at + self.rule.fresh || since > self.rule.fresh;
        let Some(me) = me.filter(|_| !stale) else {
            return self.hold_static(now);
        };
        let rolling = self.is_rolling(now, membership);
        let weight: f64 = membership.serving(own).map(|member| f64::from(member.weight)).sum();
        let others = membership.serving(own).filter(|member| member.pod != me.pod);
        if others.map(|member| u64::from(member.weight)).sum::<u64>() == 0 {
            self.history.clear();
            self.stop(now);
            self.entrance.set(now, Sign::Open);
            self.goal = None;
            return Decision::Hold(Why::Alone);
        }
        let total: f64 = membership.members.iter().map(|m| f64::from(m.connections)).sum();
        self.history.add(now, own.staying, total / weight, self.rule.settle);

        let at = |mean| Levels::new(&self.rule, mean, now, membership.rebalance);
        let (levels, current) = (at(self.history.highest_mean()), at(total / weight));
        self.goal = Some(whole(levels.goal(me.weight)));
        let sign = self.sign(&levels, membership, own, rolling);
        self.entrance.set(now, sign);

        let pace = since.as_secs_f64().min(2.0) * self.part_of_budget(&levels, membership, own);
        let look = Look {
            membership,
            own,
            me,
            total,
            levels,
            current,
            rolling,
        };
        if own.draining || me.draining {
            self.drain(now, &look, pace)
        } else {
            self.shed(now, &look, pace)
        }
    }

    /// In place of a look, while nothing is balanced and the pod does not drain: everybody is welcome, and what was seen is
    /// forgotten, so that a drain which comes later is another one.
    pub fn pause(&mut self, now: Duration) {
        self.decided_at = Some(now);
        self.draining_since = None;
        self.hold_static(now);
    }

    /// The most connections that the pod keeps, by the last look; `None` where there is no other pod, or none is known.
    pub fn goal(&self) -> Option<u32> {
        self.goal
    }

    /// Names the connections that go, by one walk over all of the hub's connections that were not told to go yet.
    ///
    /// It may name fewer than the order says: where too few can go, or all of them were moved here a moment ago.
    pub fn choose<'a, C: Copy>(
        &mut self,
        now: Duration,
        order: &Order,
        movables: impl Iterator<Item = Movable<'a, C>>,
    ) -> Vec<Move<C>> {
        order.choose(now, self.rule.stay, movables, &mut self.random)
    }

    /// Whether a new connection is welcome that no hub has sent here. `source` is anything that tells peers apart
    /// before they are known, such as a hash of the address with the key's text.
    pub fn admit(&mut self, now: Duration, source: u64) -> Upgrade {
        self.entrance.admit(now, source, &self.rule, &mut self.random)
    }

    /// What is done while nobody knows what the others hold: nothing, and everybody is welcome.
    fn hold_static(&mut self, now: Duration) -> Decision {
        self.history.clear();
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

    /// Whether a roll-out moves connections: there are two revisions, and not for a while without anything happening.
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

    /// The sign for new connections.
    fn sign(&self, levels: &Levels, membership: &Membership, own: Own, rolling: bool) -> Sign {
        let me = membership.me();
        if own.draining || me.is_some_and(|me| me.draining) {
            return Sign::Leaving;
        }
        let (Some(me), Some(raise)) = (me, levels.raise(membership, own)) else {
            return Sign::Open;
        };
        let newest = membership.newest(own);
        if rolling && Some(me.revision) != newest {
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

    /// The part of its pace that each pod may keep, so that all together stay within the budget.
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

    /// Moves per second of a drain. It is steady, and every pod can tell that of the others: a pod begins with about
    /// its part of the mean.
    fn drain_pace(&self, levels: &Levels, connections: u32, weight: u32) -> f64 {
        let began_with = f64::from(connections).max(levels.mean * f64::from(weight));
        let pace = began_with / self.rule.drain.as_secs_f64();
        pace.clamp(self.rule.slowest, self.rule.budget)
    }

    fn drain(&mut self, now: Duration, look: &Look<'_>, pace: f64) -> Decision {
        self.shedding = false;
        if now < *self.draining_since.get_or_insert(now) + self.rule.lag {
            return Decision::Hold(Why::Watching); // Until all pods that begin to drain together know of each other.
        }
        let targets = look.targets_of_drain();
        if targets.is_empty() {
            return Decision::Hold(Why::NobodyLighter);
        }
        let left = look.own.staying;
        let count = self.earn(self.drain_pace(&look.levels, left, look.me.weight) * pace, left);
        order(count, count, true, targets)
    }

    fn shed(&mut self, now: Duration, look: &Look<'_>, pace: f64) -> Decision {
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
        // Plain peers may land anywhere: not where that is of no use, nor where it may be an older revision.
        let kept = self.entrance.is_in_vain(now) || self.are_missing(now, look.total) || look.membership.is_mixed();
        let plain = if kept { 0 } else { whole(excess - raise) };
        let count = self.earn(self.pace(excess) * pace, most);
        order(count, count.min(plain as usize), false, targets)
    }

    /// Whether fewer connections are there than when the hub began to let go: they are on their way, or do not come
    /// back. Each that stays away makes the mean smaller, so that without this the pods would let go of ever more.
    fn are_missing(&mut self, now: Duration, total: f64) -> bool {
        let baseline = self.baseline.get_or_insert(Baseline { at: now, total });
        if now >= baseline.at + self.rule.stay {
            *baseline = Baseline { at: now, total };
        }
        total < baseline.total * (1.0 - MISSING)
    }

    /// Adds to what the pace has earned, and spends the whole part.
    fn earn(&mut self, moves: f64, most: u32) -> usize {
        self.credit += moves;
        let count = whole(self.credit).min(most);
        self.credit = (self.credit - f64::from(count)).min(1.0);
        count as usize
    }
}

/// What one look is about.
struct Look<'a> {
    membership: &'a Membership,
    own: Own,
    me: &'a Member,
    /// Connections of all pods.
    total: f64,
    /// By the most crowded moment of late.
    levels: Levels,
    /// By this moment.
    current: Levels,
    rolling: bool,
}

// === impl Look ===

impl Look<'_> {
    /// The other pods that take connections, of these revisions.
    fn takers(&self, revision: impl Fn(u64) -> bool) -> Vec<&Member> {
        let serving = self.membership.serving(self.own);
        let others = serving.filter(|member| member.pod != self.me.pod && member.weight > 0);
        others.filter(|member| revision(member.revision)).collect()
    }

    /// The pods below the mean, of this revision or the newest.
    fn targets_of_balance(&self) -> Targets {
        let newest = self.membership.newest(self.own);
        let takers = self.takers(|revision| revision == self.me.revision || Some(revision) == newest);
        Targets::new(takers.iter().map(|member| (&member.pod, self.current.deficit(member))))
    }

    /// Pods of the newest revision as far as they have room: first those below the mean, then those below their goal,
    /// then those that may be crowded for a while. Where they have none, all that serve, in the same order.
    fn targets_of_drain(&self) -> Targets {
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

/// The order of so many moves, if there are any.
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

/// The whole part of a number, 0 for a negative one.
fn whole(number: f64) -> u32 {
    number as u32 // Saturates.
}
