//! What a Hub's fleet shows of its pods; pure.

use alkhub_crds::condition::{self, READY};
use alkhub_crds::{Hub, HubStatus};

use crate::hub::fleet::{Fleet, Pod, PodPresence, PodStanding, Set};

/// What the fleet shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pods {
    /// As many as the Hub asks for; if it asks for none and that was not carried out, as many as its ReplicaSets ask
    /// for.
    pub(crate) wanted: i32,
    /// Pods of the newest revision.
    pub(crate) current: i32,
    pub(crate) ready: i32,
    /// Of every revision, including those that are leaving.
    pub(crate) all: i32,
    /// What an autoscaler counts: pods of every revision, except those that are to go.
    pub(crate) serving: i32,
    /// Whether every write was seen, by the caches and by the controllers of ReplicaSets.
    pub(crate) observed: bool,
    /// Whether a pod of the newest revision is ready.
    pub(crate) proven: bool,
    /// Whether a pod gives its connections away, and is told so repeatedly.
    pub(crate) is_draining: bool,
    /// Whether such a pod has something to give away, as far as is known.
    pub(crate) is_emptying: bool,
    /// Why a pod has not become ready for long, or cannot be made.
    pub(crate) stuck: Option<String>,
    /// Pods that were ready when the Hub was last shown as ready; `None`: it was not.
    pub(crate) held: Option<i32>,
}

// === impl Pods ===

impl Pods {
    /// `newest` is the revision that is wanted.
    pub(crate) fn of(hub: &Hub, fleet: &Fleet, newest: Option<&str>) -> Self {
        let newest = newest.and_then(|revision| fleet.set(revision));
        let asked = fleet.sets.iter().map(|set| set.replicas).sum();
        let is_ready = |pod: &&Pod| pod.standing >= PodStanding::Fresh;
        let failure = || newest.and_then(|set| set.failure.clone());
        Self {
            wanted: match hub.spec.replicas {
                0 => asked,
                wanted => wanted,
            },
            current: newest.map(Set::count).unwrap_or_default(),
            ready: count(fleet.here().filter(is_ready)),
            all: count(fleet.pods().filter(|pod| pod.presence != PodPresence::Lost)),
            serving: count(fleet.here().filter(|pod| pod.is_serving)),
            observed: newest.is_some() && fleet.sets.iter().all(|set| set.is_observed),
            proven: newest.is_some_and(|set| set.here().any(|pod| is_ready(&pod))),
            is_draining: fleet.here().any(Pod::gives_away),
            is_emptying: fleet.here().any(|pod| pod.gives_away() && !pod.has_nothing()),
            stuck: fleet.here().find_map(|pod| pod.stuck.clone()).or_else(failure),
            ..Self::none(hub)
        }
    }

    /// There is no pod, and none has been wanted yet.
    pub(super) fn none(hub: &Hub) -> Self {
        let ready = |status: &&HubStatus| condition::is_true(&status.conditions, READY);
        Self {
            wanted: hub.spec.replicas,
            held: hub.status.as_ref().filter(ready).map(|status| status.ready_replicas),
            ..Self::default()
        }
    }

    /// The same after a step, whose write has not been seen yet.
    pub(crate) fn after(self, is_written: bool) -> Self {
        Self {
            observed: self.observed && !is_written,
            ..self
        }
    }

    pub(super) fn fill(&self, status: &mut HubStatus) {
        status.replicas = self.serving;
        status.ready_replicas = self.ready;
        status.pods = Some(format!("{}/{}", self.ready, self.wanted));
    }

    /// Whether every pod runs the newest revision and nothing is under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.observed && self.current == self.wanted && self.all == self.wanted && self.ready == self.wanted
    }

    /// Whether there is no pod: what the last one reported no longer holds.
    pub(super) fn is_empty(&self) -> bool {
        self.observed && self.all == 0
    }

    /// Whether as many are ready as were asked for; or the Hub was ready, none of its pods was lost, and more are on
    /// the way.
    pub(crate) fn is_enough(&self) -> bool {
        self.ready >= self.wanted || self.held.is_some_and(|held| held > 0 && self.ready >= held)
    }
}

fn count<'a>(pods: impl Iterator<Item = &'a Pod>) -> i32 {
    i32::try_from(pods.count()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::fleet::testing::{self, set};
    use crate::hub::testing::{given, hub};

    fn pod(standing: PodStanding, presence: PodPresence) -> Pod {
        Pod {
            presence,
            standing,
            is_serving: presence == PodPresence::Here,
            ..testing::pod("p")
        }
    }

    fn ready() -> Pod {
        pod(PodStanding::Ready, PodPresence::Here)
    }

    #[test]
    fn a_hub_is_stopped_only_when_no_pods_are_asked_for() {
        let mut hub = hub(given());
        let wanted = |hub: &Hub, pods: Vec<Pod>| {
            let replicas = i32::try_from(pods.len()).expect("few");
            let sets = vec![set("a", replicas, pods)];
            Pods::of(hub, &Fleet { sets }, Some("a"))
        };

        assert_eq!(wanted(&hub, vec![ready()]).wanted, 2, "what the Hub asks for");
        hub.spec.replicas = 0;
        let (refused, stopped) = (wanted(&hub, vec![ready(), ready()]), wanted(&hub, Vec::new()));

        assert_eq!((refused.wanted, refused.is_empty()), (2, false));
        assert_eq!((stopped.wanted, stopped.is_empty()), (0, true));
    }

    #[test]
    fn a_roll_out_is_over_when_the_last_pod_of_an_older_revision_is_gone() {
        let hub = hub(given());
        let pods = |old: Vec<Pod>| {
            let sets = vec![set("a", 0, old), set("b", 2, vec![ready(), ready()])];
            Pods::of(&hub, &Fleet { sets }, Some("b"))
        };

        let leaving = pods(vec![pod(PodStanding::Ready, PodPresence::Leaving)]);
        assert_eq!((leaving.all, leaving.ready, leaving.serving), (3, 2, 2));
        assert!(!leaving.is_settled() && leaving.is_enough());
        let lost = pods(vec![pod(PodStanding::Unready, PodPresence::Lost)]);
        assert!(lost.is_settled() && !lost.clone().after(true).is_settled());
    }

    #[test]
    fn a_revision_is_proven_by_the_first_of_its_pods_that_is_ready() {
        let hub = hub(given());
        let with = |standing| {
            let new = pod(standing, PodPresence::Here);
            let sets = vec![set("a", 2, vec![ready(), ready()]), set("b", 1, vec![new])];
            Pods::of(&hub, &Fleet { sets }, Some("b"))
        };

        assert!(!with(PodStanding::Unready).proven && with(PodStanding::Fresh).proven);
        let unmade = Pods::of(
            &hub,
            &Fleet {
                sets: vec![set("a", 2, vec![ready()])],
            },
            Some("b"),
        );
        assert!(!unmade.proven && !unmade.observed && unmade.current == 0);
    }

    #[test]
    fn what_keeps_pods_from_being_made_or_ready_is_told() {
        let hub = hub(given());
        let stuck = Pod {
            stuck: Some("pod p".to_owned()),
            ..ready()
        };
        let refused = Set {
            failure: Some("exceeded quota".to_owned()),
            ..set("b", 1, Vec::new())
        };
        let told = |sets: Vec<Set>| Pods::of(&hub, &Fleet { sets }, Some("b")).stuck;

        assert_eq!(told(vec![set("b", 1, vec![stuck])]).as_deref(), Some("pod p"));
        assert_eq!(told(vec![refused]).as_deref(), Some("exceeded quota"));
        assert_eq!(told(vec![set("b", 1, vec![ready()])]), None);
    }
}
