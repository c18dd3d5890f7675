//! What the rule reads: the pods, as each publishes itself, and what this hub holds.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// One ready pod, as it publishes itself each second. A record that has not been renewed for 5 s no longer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its `hubId`.
    pub pod: Arc<str>,
    /// Its revision; the higher number is the newer one.
    pub revision: u64,
    /// Whether it gives all of its connections away.
    pub draining: bool,
    /// The connections that have their home there, including those that were told to go and have not gone yet.
    pub connections: u32,
    /// Its share of the connections, in relation to the others' weights. With 0 it wants none.
    pub weight: u32,
}

/// The shared membership, as one hub read it.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The pod of the hub that reads it.
    pub own: Arc<str>,
    /// All ready pods, including the hub's own.
    pub members: Vec<Member>,
    /// Those pods whose processes may be dead and whose records are not yet old enough to tell. They count as gone.
    pub doubtful: Vec<Arc<str>>,
    /// When it was read. While Redis cannot be read, this stays unchanged.
    pub read_at: Duration,
    /// The revision that the operator wants, if it has said so. It may be an older one: a roll-back.
    pub wanted: Option<u64>,
    /// When rebalancing was last ordered.
    pub rebalance: Option<Duration>,
}

/// What a hub knows about itself, which is newer than what it has published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its connections, without those that were told to go.
    pub staying: u32,
    /// Whether it drains.
    pub draining: bool,
}

// === impl Membership ===

impl Membership {
    /// The membership without the pods that may be dead.
    pub(crate) fn certain(&self) -> Cow<'_, Self> {
        if self.doubtful.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut certain = self.clone();
        certain.members.retain(|member| !self.doubtful.contains(&member.pod));
        Cow::Owned(certain)
    }

    /// Connections of all pods together.
    pub(crate) fn total(&self) -> f64 {
        self.members.iter().map(|member| f64::from(member.connections)).sum()
    }

    /// The total weight of the pods that serve.
    pub(crate) fn weight(&self, own: Own) -> f64 {
        self.serving(own).map(|member| f64::from(member.weight)).sum()
    }

    /// This hub's own record.
    pub(crate) fn me(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.pod == self.own)
    }

    /// The pods that keep their connections and take new ones. A draining hub knows of its drain before its record says
    /// so.
    pub(crate) fn serving(&self, own: Own) -> impl Iterator<Item = &Member> {
        let leaving = move |member: &Member| member.draining || own.draining && member.pod == self.own;
        self.members.iter().filter(move |member| !leaving(member))
    }

    /// Whether there are pods of more than one revision.
    pub(crate) fn is_mixed(&self) -> bool {
        let first = self.members.first().map(|member| member.revision);
        self.members.iter().any(|member| Some(member.revision) != first)
    }

    /// The revision that connections should get to: the wanted one if a pod serves it, else the newest one that serves.
    pub(crate) fn newest(&self, own: Own) -> Option<u64> {
        let wanted = self.serving(own).any(|member| Some(member.revision) == self.wanted);
        if wanted {
            return self.wanted;
        }
        self.serving(own).map(|member| member.revision).max()
    }
}
