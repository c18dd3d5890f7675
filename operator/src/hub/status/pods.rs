//! What a Hub's Deployment says of its pods; pure.

use alkhub_crds::condition::{self, READY};
use alkhub_crds::{Hub, HubStatus};
use k8s_openapi::api::apps::v1::Deployment;

/// What the Deployment says of its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pods {
    /// As the Hub asks; as its Deployment does where the Hub asks for none and that was not carried out.
    pub(crate) wanted: i32,
    /// Of the current revision.
    pub(crate) current: i32,
    pub(crate) ready: i32,
    /// Of every revision.
    pub(crate) all: i32,
    /// The Deployment's controller has seen the newest template.
    pub(crate) observed: bool,
    /// The Deployment gave up waiting.
    pub(crate) stuck: Option<String>,
    /// Pods that were ready when the Hub was last shown as ready; `None`: it was not.
    pub(crate) held: Option<i32>,
}

// === impl Pods ===

impl Pods {
    pub(crate) fn of(hub: &Hub, deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let stuck = conditions.into_iter().find(|c| {
            (c.type_ == "Progressing" && c.status == "False") || (c.type_ == "ReplicaFailure" && c.status == "True")
        });
        let deployed = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        Self {
            wanted: match hub.spec.replicas {
                0 => deployed.unwrap_or_default(),
                wanted => wanted,
            },
            current: status.updated_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            all: status.replicas.unwrap_or_default(),
            observed: status.observed_generation >= deployment.metadata.generation,
            stuck: stuck.map(|c| c.message.or(c.reason).unwrap_or_default()),
            ..Self::none(hub)
        }
    }

    /// There is no Deployment.
    pub(super) fn none(hub: &Hub) -> Self {
        let ready = |status: &&HubStatus| condition::is_true(&status.conditions, READY);
        Self {
            wanted: hub.spec.replicas,
            held: hub.status.as_ref().filter(ready).map(|status| status.ready_replicas),
            ..Self::default()
        }
    }

    pub(super) fn fill(&self, status: &mut HubStatus) {
        status.replicas = self.current;
        status.ready_replicas = self.ready;
        status.pods = Some(format!("{}/{}", self.ready, self.wanted));
    }

    /// Everything runs the newest revision and nothing else does.
    pub(crate) fn is_settled(&self) -> bool {
        self.observed && self.current == self.wanted && self.all == self.wanted && self.ready == self.wanted
    }

    /// No pod is there: what the last one reported is over.
    pub(super) fn is_empty(&self) -> bool {
        self.observed && self.all == 0
    }

    /// A pod of the newest revision is surely ready: more are ready than there are of older revisions.
    pub(crate) fn is_proven(&self) -> bool {
        self.observed && self.current > 0 && self.ready > self.all - self.current
    }

    /// As many are ready as were asked for; or the Hub was ready, none of its pods was lost, and more are on the way.
    pub(crate) fn is_enough(&self) -> bool {
        self.ready >= self.wanted || self.held.is_some_and(|held| held > 0 && self.ready >= held)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hub::testing::{given, hub};

    #[test]
    fn a_hub_is_stopped_only_when_its_deployment_wants_no_pods() {
        let mut hub = hub(given());
        let wanted = |hub: &Hub, replicas: i32| {
            let deployment = json!({"metadata": {"generation": 1}, "spec": {
                "replicas": replicas, "selector": {}, "template": {},
            }, "status": {"observedGeneration": 1, "replicas": replicas, "readyReplicas": replicas}});
            Pods::of(hub, &serde_json::from_value(deployment).expect("a Deployment"))
        };

        assert_eq!(wanted(&hub, 1).wanted, 2, "what the Hub asks for");
        hub.spec.replicas = 0;
        let (refused, stopped) = (wanted(&hub, 2), wanted(&hub, 0));

        assert_eq!((refused.wanted, refused.is_empty()), (2, false));
        assert_eq!((stopped.wanted, stopped.is_empty()), (0, true));
    }

    fn pods(wanted: i32, current: i32, ready: i32, all: i32) -> Pods {
        Pods {
            wanted,
            current,
            ready,
            all,
            observed: true,
            ..Pods::default()
        }
    }

    #[test]
    fn a_revision_is_proven_by_the_first_of_its_pods_that_is_surely_ready() {
        assert!(!pods(2, 1, 2, 3).is_proven(), "the two may be the old ones");
        assert!(pods(2, 1, 3, 3).is_proven() && pods(2, 2, 1, 2).is_proven());
        assert!(!pods(2, 0, 2, 2).is_proven() && !pods(0, 0, 0, 0).is_proven());
        let unseen = Pods {
            observed: false,
            ..pods(2, 2, 2, 2)
        };
        assert!(
            !unseen.is_proven() && !unseen.is_settled(),
            "it speaks of the revision before"
        );
    }
}
