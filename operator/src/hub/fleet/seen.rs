//! A fleet as Kubernetes has it; pure.
//!
//! Invariants
//! - What others decide from a cache is given time to reach that cache. Neither a mark nor a pod's readiness counts
//!   before [`SETTLED`], and a mark only once this term of leadership itself has known it for that long: the clock that
//!   dated it may be another machine's.
//! - The time since a mark counts only while the pod's hub is told to give its connections away
//!   ([`watched`](super::watched)).
//! - A pod that is to go is waited for while it has something to give away, and no longer than it says itself. Only a
//!   report can show that it has nothing: a pod that is missing from the report, or whose figures are, may have much.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_protocol::kubernetes::DRAIN_LAPSE;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{self, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::watched::WatchedDrain;
use super::{Drain, Fleet, Pod, PodLoad, PodPresence, PodStanding, Set};
use crate::admin::ReportedPod;
use crate::hub::elapsed::elapsed;
use crate::hub::grace::EMPTYING;
use crate::names::{DRAIN_SECONDS, DRAIN_SINCE, REVISION, SERVING, is_drain_requested, is_owned_by};

/// The caches of Kubernetes' controllers lag by no more than this.
pub(crate) const SETTLED: Duration = Duration::from_secs(2);

/// A pod that has not been ready for this long is stuck.
const STUCK: Duration = Duration::from_secs(300);

/// A pod that still exists this long after its grace period is on a lost node.
const LOST: Duration = Duration::from_secs(30);

/// A fleet at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FleetSight {
    pub(crate) fleet: Fleet,
    /// The fleet changes after this long by the passing of time alone; `None`: it does not.
    pub(crate) changes_in: Option<Duration>,
}

/// What a hub said of its pods, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodLoads {
    at: Timestamp,
    /// By name, and only those whose figures are complete.
    pods: HashMap<String, PodLoad>,
}

/// What is known of pods beyond what Kubernetes has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) loads: Option<PodLoads>,
    /// Those that are to go and that this term looks after, by uid.
    pub(crate) drains: HashMap<String, WatchedDrain>,
}

/// What depends on the clock.
struct Look<'a> {
    now: Timestamp,
    known: &'a Known,
    changes_in: Option<Duration>,
}

/// The fleet of these ReplicaSets, with those of `pods` that belong to them.
pub(crate) fn of<S, P>(sets: &[S], pods: &[P], known: &Known, now: Timestamp) -> FleetSight
where
    S: AsRef<ReplicaSet>,
    P: AsRef<v1::Pod>,
{
    let mut look = Look {
        now,
        known,
        changes_in: None,
    };
    let mut fleet = Fleet::default();
    for set in sets.iter().map(AsRef::as_ref) {
        let uid = set.uid().unwrap_or_default();
        let theirs = pods.iter().map(AsRef::as_ref);
        let theirs = theirs.filter(|pod| is_owned_by(&pod.metadata, &uid) && !has_ended(pod));
        fleet.sets.push(look.set(set, theirs));
    }
    FleetSight {
        fleet,
        changes_in: look.changes_in,
    }
}

/// A pod that has ended by itself does not count: its ReplicaSet replaces it.
fn has_ended(pod: &v1::Pod) -> bool {
    matches!(phase(pod), Some("Succeeded" | "Failed"))
}

fn phase(pod: &v1::Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// For how long a pod that is to go gives its connections away before it goes and drains the rest on its own. Pods of
/// an older operator do not say.
fn drain_time(pod: &v1::Pod) -> Duration {
    let seconds = pod.annotations().get(DRAIN_SECONDS);
    seconds
        .and_then(|seconds| seconds.parse().ok())
        .map_or(EMPTYING, Duration::from_secs)
}

fn condition<'a>(pod: &'a v1::Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

// === impl PodLoads ===

impl PodLoads {
    /// The content of a report from this time. A pod whose container has restarted may be listed twice for a while: its
    /// load is then the sum of both.
    pub(crate) fn of(at: Timestamp, reported: &[ReportedPod]) -> Self {
        let mut loads = HashMap::<String, Option<PodLoad>>::new();
        for pod in reported {
            let load = pod.in_flight.map(|in_flight| PodLoad {
                in_flight,
                connections: pod.connections,
                reconnecting: pod.reconnecting.unwrap_or_default(),
                is_draining: pod.draining,
                is_twofold: false,
            });
            let known = loads.entry(pod.pod.clone());
            known
                .and_modify(|known| *known = known.zip(load).map(|(known, more)| known.and(more)))
                .or_insert(load);
        }
        let known = loads.into_iter().filter_map(|(name, load)| Some((name, load?)));
        Self {
            at,
            pods: known.collect(),
        }
    }
}

// === impl Look ===

impl Look<'_> {
    fn set<'a>(&mut self, set: &ReplicaSet, pods: impl Iterator<Item = &'a v1::Pod>) -> Set {
        let status = set.status.as_ref();
        let observed = status.and_then(|status| status.observed_generation);
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let failure = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
        Set {
            name: set.name_any(),
            uid: set.uid().unwrap_or_default(),
            resource_version: set.resource_version().unwrap_or_default(),
            revision: set.labels().get(REVISION).cloned().unwrap_or_default(),
            replicas: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default(),
            is_observed: observed >= set.metadata.generation,
            failure: failure.map(|c| c.message.clone().or_else(|| c.reason.clone()).unwrap_or_default()),
            pods: pods.map(|pod| self.pod(pod)).collect(),
        }
    }

    fn pod(&mut self, pod: &v1::Pod) -> Pod {
        let marked = pod.annotations().get(DRAIN_SINCE);
        let presence = self.presence(pod);
        let standing = self.standing(pod);
        Pod {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            resource_version: pod.resource_version().unwrap_or_default(),
            presence,
            standing,
            is_serving: pod.labels().get(SERVING.0).is_some_and(|value| value == SERVING.1),
            drain: marked.map(|since| match since.parse() {
                Ok(since) if presence == PodPresence::Here => self.drain(pod, standing, since),
                // Either it has gone already, or its mark cannot be read: that one is somebody's own, and counts as old
                // enough.
                Ok(_) | Err(_) => Drain {
                    is_over: true,
                    is_lapsed: false,
                },
            }),
            is_emptied: is_drain_requested(pod),
            load: self.load(pod),
            stuck: self.stuck(pod, presence, standing),
        }
    }

    /// The load of a pod, as it was last reported.
    fn load(&self, pod: &v1::Pod) -> Option<PodLoad> {
        self.known.loads.as_ref()?.pods.get(&pod.name_any()).copied()
    }

    /// How far the drain of a pod is that was marked at `since`.
    fn drain(&mut self, pod: &v1::Pod, standing: PodStanding, since: Timestamp) -> Drain {
        let watched = self.known.drains.get(&pod.uid().unwrap_or_default());
        let watched = watched.copied().unwrap_or_default();
        let age = elapsed(since, self.now);
        let counted = watched.counts_for.map_or(age, |counts| counts.min(age));
        let is_settled = self.has_passed(since, SETTLED) && self.has_lasted(watched.known_for, SETTLED);
        Drain {
            is_over: is_settled
                && (self.has_nothing(pod, standing, since) || self.has_lasted(counted, drain_time(pod))),
            is_lapsed: watched.is_anew && age >= counted.saturating_add(DRAIN_LAPSE),
        }
    }

    /// Whether nothing is lost with a pod that was marked at `since`.
    fn has_nothing(&self, pod: &v1::Pod, standing: PodStanding, since: Timestamp) -> bool {
        // A report from before the mark was seen is no answer to it.
        let answer = self.known.loads.as_ref().filter(|loads| loads.at >= since + SETTLED);
        let load = answer.and_then(|answer| answer.pods.get(&pod.name_any()));
        let is_empty = load.is_some_and(|load| load.is_nothing());
        // A pod that takes nobody new may still have the connections it had.
        let has_none = || self.load(pod).is_none_or(PodLoad::is_nothing);
        is_empty || standing < PodStanding::Unready || (standing == PodStanding::Unready && has_none())
    }

    fn presence(&mut self, pod: &v1::Pod) -> PodPresence {
        // The time by which it should be gone.
        match &pod.metadata.deletion_timestamp {
            None => PodPresence::Here,
            Some(end) if self.has_passed(end.0, LOST) => PodPresence::Lost,
            Some(_) => PodPresence::Leaving,
        }
    }

    fn standing(&mut self, pod: &v1::Pod) -> PodStanding {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node.unwrap_or_default().is_empty() {
            return PodStanding::Unassigned;
        }
        match phase(pod) {
            Some("Running") => {}
            Some("Unknown") => return PodStanding::Unknown,
            Some(_) | None => return PodStanding::Pending,
        }
        match condition(pod, "Ready") {
            Some(ready) if ready.status == "True" => {
                let since = ready.last_transition_time.as_ref().map_or(self.now, |time| time.0);
                // Kubernetes' times have no fractions of seconds.
                if self.has_passed(since, SETTLED + Duration::from_secs(1)) {
                    PodStanding::Ready
                } else {
                    PodStanding::Fresh
                }
            }
            Some(_) | None => PodStanding::Unready,
        }
    }

    fn stuck(&self, pod: &v1::Pod, presence: PodPresence, standing: PodStanding) -> Option<String> {
        let waits = presence == PodPresence::Here && standing < PodStanding::Fresh;
        let made = pod.creation_timestamp().map(|time| time.0);
        let unready = condition(pod, "Ready")
            .and_then(|ready| ready.last_transition_time.as_ref())
            .map(|time| time.0);
        let since = made.max(unready).filter(|_| waits)?;
        if elapsed(since, self.now) < STUCK {
            return None;
        }
        let why = ["PodScheduled", "Ready"]
            .into_iter()
            .filter_map(|kind| condition(pod, kind))
            .find(|condition| condition.status == "False");
        let why = why.and_then(|why| why.message.clone()).unwrap_or_default();
        let minutes = STUCK.as_secs() / 60;
        let text = format!(
            "pod {} has not become ready for {minutes} minutes: {why}",
            pod.name_any()
        );
        Some(text.trim_end_matches(": ").to_owned())
    }

    /// Whether something began at least `limit` ago; if not, the fleet changes when it has.
    fn has_passed(&mut self, since: Timestamp, limit: Duration) -> bool {
        self.has_lasted(elapsed(since, self.now), limit)
    }

    /// The same for something that has lasted for `elapsed`.
    fn has_lasted(&mut self, elapsed: Duration, limit: Duration) -> bool {
        if elapsed >= limit {
            return true;
        }
        let rest = limit - elapsed;
        self.changes_in = Some(self.changes_in.map_or(rest, |known| known.min(rest)));
        false
    }
}

#[cfg(test)]
mod tests;
