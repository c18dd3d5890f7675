//! The pods of a Hub as its ReplicaSets have them, on which each step is decided; pure.

/// All pods of a Hub, by revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fleet {
    pub(crate) sets: Vec<Set>,
}

/// The ReplicaSet of one revision, with its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    /// The name of the ReplicaSet.
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) revision: String,
    /// Pods that it asks for.
    pub(crate) replicas: i32,
    /// Whether its controller has seen how many pods it asks for.
    pub(crate) is_observed: bool,
    /// Why its controller cannot make those pods.
    pub(crate) failure: Option<String>,
    pub(crate) pods: Vec<Pod>,
}

/// One pod. A pod that has ended by itself does not count: its ReplicaSet replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) presence: PodPresence,
    pub(crate) standing: PodStanding,
    /// Whether an autoscaler counts it.
    pub(crate) is_serving: bool,
    /// Its mark; `None`: it is to stay.
    pub(crate) drain: Option<Drain>,
    /// Whether somebody wants it to be empty, whether it is to go or not.
    pub(crate) is_emptied: bool,
    /// Its load, as the hubs last reported it; `None`: unknown.
    pub(crate) load: Option<PodLoad>,
    /// Why it is not ready, if it has not been for long.
    pub(crate) stuck: Option<String>,
}

/// The load of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodLoad {
    /// Calls that it has taken and that have not ended.
    pub(crate) in_flight: u64,
    /// Open WebSockets.
    pub(crate) connections: u64,
    /// Sessions whose connection is lost and whose peer may come back.
    pub(crate) reconnecting: u64,
    /// Whether its hub says that it gives its connections away.
    pub(crate) is_draining: bool,
    /// Whether two processes are reported in it: the older one may be gone, with its load.
    pub(crate) is_twofold: bool,
}

/// Whether a pod exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodPresence {
    /// It is not being deleted.
    Here,
    /// It was deleted and may still be draining.
    Leaving,
    /// It was deleted, and its time to drain is long over: its node is lost, and nobody waits for it.
    Lost,
}

/// How far a pod has come, in the order in which the controller of ReplicaSets takes pods away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PodStanding {
    /// It has no node.
    Unassigned,
    /// Its containers do not run yet.
    Pending,
    /// Its node does not report.
    Unknown,
    Unready,
    /// It is ready, but not yet for long enough to be sure that the controller knows. Nothing is decided by it.
    Fresh,
    Ready,
}

/// The mark of a pod that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    /// The pod may go now: it is empty, or has had its time.
    pub(crate) is_over: bool,
    /// Whether its hub was told nothing for so long that it took its connections back: the mark is to be renewed.
    pub(crate) is_lapsed: bool,
}

/// How many pods a ReplicaSet is to ask for, if it is still as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Name and uid of the ReplicaSet.
    pub(crate) set: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) to: i32,
}

// === impl Fleet ===

impl Fleet {
    /// The ReplicaSet of a revision.
    pub(crate) fn set(&self, revision: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.revision == revision)
    }

    /// Every pod that is there or leaving.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.sets.iter().flat_map(|set| &set.pods)
    }

    /// Its pods that are not being deleted.
    pub(crate) fn here(&self) -> impl Iterator<Item = &Pod> {
        self.sets.iter().flat_map(Set::here)
    }

    pub(super) fn has_mark(&self) -> bool {
        self.here().any(|pod| pod.drain.is_some())
    }
}

// === impl Set ===

impl Set {
    /// Its pods that are not being deleted.
    pub(crate) fn here(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.presence == PodPresence::Here)
    }

    pub(super) fn marked(&self) -> impl Iterator<Item = &Pod> {
        self.here().filter(|pod| pod.drain.is_some())
    }

    /// How many pods are there.
    pub(crate) fn count(&self) -> i32 {
        i32::try_from(self.here().count()).unwrap_or(i32::MAX)
    }

    /// How many of them have been ready for some time.
    pub(super) fn ready(&self) -> i32 {
        let ready = self.here().filter(|pod| pod.standing == PodStanding::Ready);
        i32::try_from(ready.count()).unwrap_or(i32::MAX)
    }

    /// Whether its controller is about to delete pods.
    pub(super) fn is_deleting(&self) -> bool {
        self.count() > self.replicas
    }

    pub(super) fn scaled(&self, to: i32) -> Scale {
        Scale {
            set: self.name.clone(),
            uid: self.uid.clone(),
            resource_version: self.resource_version.clone(),
            to,
        }
    }
}

// === impl PodLoad ===

impl PodLoad {
    /// Whether nothing is lost with the pod. Sessions whose peer may come back would end with it.
    pub(crate) fn is_nothing(self) -> bool {
        (self.in_flight, self.connections, self.reconnecting) == (0, 0, 0)
    }

    /// The sum of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            in_flight: self.in_flight.saturating_add(other.in_flight),
            connections: self.connections.saturating_add(other.connections),
            reconnecting: self.reconnecting.saturating_add(other.reconnecting),
            is_draining: self.is_draining || other.is_draining,
            is_twofold: true,
        }
    }
}

// === impl Pod ===

impl Pod {
    /// Whether its hub is to give its connections away.
    pub(crate) fn gives_away(&self) -> bool {
        self.drain.is_some() || self.is_emptied
    }

    /// Whether nothing is lost with it, as it was last reported.
    pub(crate) fn has_nothing(&self) -> bool {
        self.load.is_some_and(PodLoad::is_nothing)
    }

    /// Whether it has served for some time and was not told to go.
    pub(super) fn is_counted_on(&self) -> bool {
        self.presence == PodPresence::Here && self.standing == PodStanding::Ready && self.drain.is_none()
    }
}
