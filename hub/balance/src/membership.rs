//! What the rule reads: the pods, as all of them publish themselves, and what the own hub holds.

use std::sync::Arc;
use std::time::Duration;

/// One ready pod, as it publishes itself each second. A record that was not renewed for 5 s is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its `hubId`.
    pub pod: Arc<str>,
    /// Its revision. Of two, the higher one is newer.
    pub revision: u64,
    /// Whether it gives all of its connections away.
    pub draining: bool,
    /// The connections that have their home there, also those that were told to go and have not gone yet.
    pub connections: u32,
    /// Its share of the connections, as a ratio to the others' weights. With 0 it wants none.
    pub weight: u32,
}

/// The shared membership, as one hub read it.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The pod of the hub that reads.
    pub own: Arc<str>,
    /// All ready pods, the own one among them.
    pub members: Vec<Member>,
    /// When it was read. While Redis cannot be read, this stays as it is.
    pub read_at: Duration,
    /// The revision that the operator wants, where it says so. It may be an older one: a roll-back.
    pub wanted: Option<u64>,
    /// When rebalancing was ordered last.
    pub rebalance: Option<Duration>,
}

/// What a hub knows of itself, newer than what it has published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its connections, without those that were told to go.
    pub staying: u32,
    /// Whether it drains.
    pub draining: bool,
}

// === impl Membership ===

impl Membership {
    /// The own record.
    pub(crate) fn me(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.pod == self.own)
    }

    /// The pods that keep their connections and take new ones. A hub that drains knows that before its record says so.
    pub(crate) fn serving(&self, own: Own) -> impl Iterator<Item = &Member> {
        let leaving = move |member: &Member| member.draining || own.draining && member.pod == self.own;
        self.members.iter().filter(move |member| !leaving(member))
    }

    /// Whether pods of more than one revision are there.
    pub(crate) fn is_mixed(&self) -> bool {
        let first = self.members.first().map(|member| member.revision);
        self.members.iter().any(|member| Some(member.revision) != first)
    }

    /// The revision that connections should get to: the wanted one where a pod serves it, else the newest that serves.
    pub(crate) fn newest(&self, own: Own) -> Option<u64> {
        let wanted = self.serving(own).any(|member| Some(member.revision) == self.wanted);
        if wanted {
            return self.wanted;
        }
        self.serving(own).map(|member| member.revision).max()
    }
}
