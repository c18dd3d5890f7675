//! Which of a Hub's pods comes or goes next; pure.
//!
//! A fleet has one ReplicaSet for each revision. Kubernetes keeps their pods, even while no operator runs; what is
//! decided here is how many pods each of them asks for, and which pod goes when it asks for fewer.
//!
//! A pod goes in two writes. *Drain* marks it: it gets the lowest possible deletion cost, an autoscaler no longer
//! counts it, and its hub is told to give its connections away. *Shrink* asks the pod's ReplicaSet for one pod less.
//! Until then the mark can be taken back (*Cancel*).
//!
//! Invariants
//! - There is no state but the cluster's. A step is one write; the next leader reads what is there and goes on.
//! - No step takes a ready pod while fewer others are ready than the goal asks for, and none asks for more than one pod
//!   beyond the goal (a goal of 0 takes all of them).
//! - A ReplicaSet is asked for fewer pods only when it is certain that the marked one goes, and then for one less. Its
//!   controller removes pods that are not ready before it looks at the deletion cost: hence [`PodStanding`].
//! - Ready pods go one after the other: none is marked while another one is marked or still leaving.
//! - Ready pods that are held are not chosen, and go only when all go.
//! - While the goal is paused, nothing is marked and no ReplicaSet is asked for fewer pods, unless for none at all.

pub(crate) mod seen;
mod state;
pub(crate) mod watched;

use std::cmp::Reverse;

pub(crate) use self::state::{Drain, Fleet, Pod, PodLoad, PodPresence, PodStanding, Scale, Set};

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    pub(crate) revision: String,
    pub(crate) replicas: i32,
    /// No pod goes, and none comes except to replace a missing one: what runs is not to be replaced for now.
    pub(crate) is_paused: bool,
    /// Ready pods that stay for now, unless all go.
    pub(crate) held: Option<HeldPods>,
}

/// Which ready pods stay for now, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldPods {
    /// None is marked: their load is not known yet.
    Unasked,
    /// No pod of the newest revision is marked or goes: without Redis, its peers could not find another.
    NoRedis,
}

/// The next write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: all is as wanted, or somebody else has to act first.
    Hold,
    /// The newest revision's ReplicaSet asks for more pods.
    Surge(Scale),
    /// A pod is marked.
    Drain(Pod),
    /// The mark of a pod is renewed, as of now.
    Renew(Pod),
    /// The mark of a pod is taken away.
    Cancel(Pod),
    /// A ReplicaSet asks for fewer pods.
    Shrink(Scale),
}

/// The order in which pods go: by standing, older revisions before the newest, pods being emptied first, then those
/// whose load is known, the least loaded first, and by name.
type Rank<'a> = (PodStanding, bool, bool, bool, PodLoad, Reverse<&'a str>);

/// A fleet beside what is wanted.
struct View<'a> {
    fleet: &'a Fleet,
    goal: &'a Goal,
}

/// What to do next.
pub(crate) fn step(fleet: &Fleet, goal: &Goal) -> Step {
    let view = View { fleet, goal };
    let next = if goal.replicas == 0 {
        // All pods of all revisions go, so it does not matter which is first.
        view.stop()
    } else if goal.is_paused {
        view.keep().or_else(|| view.fill())
    } else {
        view.cancel()
            .or_else(|| view.surge())
            .or_else(|| view.give_up_missing())
            .or_else(|| view.renew())
            .or_else(|| view.shrink())
            .or_else(|| view.drain())
    };
    next.unwrap_or(Step::Hold)
}

// === impl Goal ===

impl Goal {
    /// Whether a pod must not be marked for now.
    fn is_held(&self, set: &Set, pod: &Pod) -> bool {
        let is_unasked = self.held == Some(HeldPods::Unasked) && pod.standing == PodStanding::Ready;
        is_unasked || self.keeps(set, pod)
    }

    /// Whether a pod stays for now, even if it is already marked.
    pub(crate) fn keeps(&self, set: &Set, pod: &Pod) -> bool {
        let is_newest = set.revision == self.revision && pod.standing == PodStanding::Ready;
        self.held == Some(HeldPods::NoRedis) && is_newest
    }
}

// === impl View ===

impl View<'_> {
    fn is_old(&self, set: &Set) -> bool {
        set.revision != self.goal.revision
    }

    /// How many pods fewer a ReplicaSet shall ask for in the end.
    fn surplus(&self, set: &Set) -> i32 {
        let wanted = if self.is_old(set) { 0 } else { self.goal.replicas };
        (set.replicas - wanted).max(0)
    }

    /// The rank of a pod among those that may go; the lowest goes first.
    fn rank<'b>(&self, set: &Set, pod: &'b Pod) -> Rank<'b> {
        let (is_newest, load) = (!self.is_old(set), pod.load.unwrap_or_default());
        // An unknown load may be a high one.
        let is_unknown = pod.load.is_none();
        (
            pod.standing,
            is_newest,
            !pod.is_emptied,
            is_unknown,
            load,
            Reverse(&pod.name),
        )
    }

    /// Whether a pod may go: it is no longer needed, the others are enough without it, and its ReplicaSet's controller
    /// would take it before any other unmarked one.
    fn may_go(&self, set: &Set, pod: &Pod) -> bool {
        let is_first = |other: &Pod| other.uid == pod.uid || other.drain.is_some() || other.standing >= pod.standing;
        let is_spare = match pod.standing {
            PodStanding::Ready => self.ready_besides(pod) >= self.goal.replicas,
            PodStanding::Fresh => false,
            PodStanding::Unassigned | PodStanding::Pending | PodStanding::Unknown | PodStanding::Unready => {
                !self.is_old(set) || self.spare() > 0
            }
        };
        self.surplus(set) > 0 && is_spare && set.here().all(is_first)
    }

    /// How many unready pods of older revisions may be given up. In a roll-out that does not finish they must be waited
    /// for: theirs is the revision that works, and a pod that was lost comes back.
    fn spare(&self) -> i32 {
        let asked: i32 = self.fleet.sets.iter().map(|set| set.replicas).sum();
        let newest = self.fleet.set(&self.goal.revision);
        let missing = newest.map_or(0, |set| (set.replicas - set.ready()).max(0));
        asked - self.goal.replicas - missing
    }

    /// Ready pods of all revisions that stay when this one goes.
    fn ready_besides(&self, pod: &Pod) -> i32 {
        let others = self.fleet.pods().filter(|other| other.uid != pod.uid);
        let ready = i32::try_from(others.filter(|other| other.is_counted_on()).count()).unwrap_or(i32::MAX);
        // If somebody else made a ReplicaSet ask for fewer, it may take some of them any moment.
        let taken = |set: &Set| (set.count() - set.replicas - i32::try_from(set.marked().count()).unwrap_or(0)).max(0);
        ready - self.fleet.sets.iter().map(taken).sum::<i32>()
    }

    /// Takes back a mark that no longer applies, and makes an autoscaler count an unmarked pod again.
    fn cancel(&self) -> Option<Step> {
        if let Some(pod) = self.fleet.here().find(|pod| pod.drain.is_none() && !pod.is_serving) {
            return Some(Step::Cancel(pod.clone()));
        }
        // The controller of a deleting ReplicaSet may have chosen its pod already: that cannot be taken back.
        let sets = self.fleet.sets.iter().filter(|set| !set.is_deleting());
        let wrong = sets.filter_map(|set| {
            let mut marked: Vec<_> = set.marked().collect();
            marked.sort_by_key(|pod| self.rank(set, pod));
            let surplus = usize::try_from(self.surplus(set)).unwrap_or_default();
            let beyond = marked.get(surplus);
            beyond
                .or_else(|| marked.iter().find(|pod| !self.may_go(set, pod)))
                .copied()
        });
        wrong.into_iter().next().cloned().map(Step::Cancel)
    }

    /// Asks for pods of the newest revision: up to the goal, with at most one pod beyond it in all revisions together.
    fn surge(&self) -> Option<Step> {
        let set = self.fleet.set(&self.goal.revision)?;
        let older: i32 = self
            .fleet
            .sets
            .iter()
            .filter(|set| self.is_old(set))
            .map(|set| set.replicas)
            .sum();
        let to = (self.goal.replicas + 1 - older).min(self.goal.replicas);
        (to > set.replicas).then(|| Step::Surge(set.scaled(to)))
    }

    /// Stops asking for pods that are neither wanted nor there: nothing is lost with them.
    fn give_up_missing(&self) -> Option<Step> {
        self.fleet.sets.iter().filter(|set| set.is_observed).find_map(|set| {
            let few = if self.is_old(set) {
                self.spare().max(0)
            } else {
                i32::MAX
            };
            let to = set.count().max(set.replicas - self.surplus(set).min(few));
            (to < set.replicas).then(|| Step::Shrink(set.scaled(to)))
        })
    }

    /// Renews the mark of a pod whose hub has taken its connections back: the next leader must not read the old mark's
    /// time as drain time.
    fn renew(&self) -> Option<Step> {
        let sets = self.fleet.sets.iter().filter(|set| !set.is_deleting());
        let mut marked = sets.flat_map(Set::marked);
        let pod = marked.find(|pod| pod.drain.is_some_and(|drain| drain.is_lapsed))?;
        Some(Step::Renew(pod.clone()))
    }

    /// Lets a marked pod go whose drain is over.
    fn shrink(&self) -> Option<Step> {
        let stays = |set: &Set| set.marked().any(|pod| self.goal.keeps(set, pod));
        let is_settled = |set: &&Set| set.is_observed && set.count() == set.replicas && !stays(set);
        // If two are marked, the controller may take either.
        let ends = |set: &Set| {
            let mut drains = set.marked().filter_map(|pod| pod.drain).peekable();
            drains.peek().is_some() && drains.all(|drain| drain.is_over)
        };
        let set = self.fleet.sets.iter().filter(is_settled).find(|set| ends(set))?;
        Some(Step::Shrink(set.scaled(set.replicas - 1)))
    }

    /// Marks the pod that goes next.
    fn drain(&self) -> Option<Step> {
        if self.fleet.has_mark() || self.fleet.sets.iter().any(Set::is_deleting) {
            return None;
        }
        let pods = self
            .fleet
            .sets
            .iter()
            .flat_map(|set| set.here().map(move |pod| (set, pod)));
        let (_, victim) = pods
            .filter(|(set, pod)| self.may_go(set, pod) && !self.goal.is_held(set, pod))
            .min_by_key(|(set, pod)| self.rank(set, pod))?;
        let is_alone = || self.fleet.pods().all(|pod| pod.presence != PodPresence::Leaving);
        (victim.standing != PodStanding::Ready || is_alone()).then(|| Step::Drain(victim.clone()))
    }

    /// Takes back every mark that can be taken back.
    fn keep(&self) -> Option<Step> {
        let sets = self.fleet.sets.iter().filter(|set| !set.is_deleting());
        let mut here = sets.flat_map(Set::here);
        here.find(|pod| pod.drain.is_some() || !pod.is_serving)
            .cloned()
            .map(Step::Cancel)
    }

    /// Asks for the pods of the newest revision that are missing in all revisions together.
    fn fill(&self) -> Option<Step> {
        let set = self.fleet.set(&self.goal.revision)?;
        let asked: i32 = self.fleet.sets.iter().map(|set| set.replicas).sum();
        let missing = self.goal.replicas - asked;
        (missing > 0).then(|| Step::Surge(set.scaled(set.replicas + missing)))
    }

    fn stop(&self) -> Option<Step> {
        let set = self.fleet.sets.iter().find(|set| set.replicas > 0)?;
        Some(Step::Shrink(set.scaled(0)))
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
