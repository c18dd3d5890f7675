//! Small fleets for the tests of this module and of others.

use super::{Pod, PodLoad, PodPresence, PodStanding, Set};

/// A pod that serves and has nothing.
pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        resource_version: "1".to_owned(),
        presence: PodPresence::Here,
        standing: PodStanding::Ready,
        is_serving: true,
        drain: None,
        is_emptied: false,
        load: Some(PodLoad::default()),
        stuck: None,
    }
}

/// The ReplicaSet of a revision, whose controller has seen how many pods it asks for.
pub(crate) fn set(revision: &str, replicas: i32, pods: Vec<Pod>) -> Set {
    Set {
        name: format!("demo-{revision}"),
        uid: format!("uid-{revision}"),
        resource_version: "7".to_owned(),
        revision: revision.to_owned(),
        replicas,
        is_observed: true,
        failure: None,
        pods,
    }
}
