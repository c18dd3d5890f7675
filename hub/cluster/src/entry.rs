//! The records of the directory, as its readers get them.

use std::collections::BTreeMap;
use std::sync::Arc;

use alkhub_protocol::admin::InstanceState;
use alkhub_protocol::register::SpokeType;
use alkhub_protocol::{HubId, InstanceId, OperationName, RawJson, SpokeName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// One connected instance of a spoke: the record that its generation fences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryEntry {
    /// The declared spoke.
    pub spoke: SpokeName,
    /// The running program.
    pub instance: InstanceId,
    /// The hub that holds its connection.
    pub hub: HubId,
    /// The connection's id on that hub.
    pub connection: String,
    /// The fencing number; [`Cluster::register_unless`](crate::Cluster::register_unless) sets it. Later registrations
    /// have higher ones; two hubs that were both cut off from Redis may give the same one, so records are compared by
    /// their [`Fence`].
    #[serde(default)]
    pub generation: u64,
    /// Whether its connection is there; [`Cluster::state_changed`](crate::Cluster::state_changed) updates it.
    #[serde(default)]
    pub state: InstanceState,
    /// Kind of spoke.
    #[serde(default)]
    pub spoke_type: SpokeType,
    /// Free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many calls it takes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// When it connected.
    pub connected_at: Timestamp,
    /// The host that it reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_info: Option<RawJson>,
    /// The operations that it offers.
    #[serde(default)]
    pub operations: Vec<OfferedOperation>,
}

/// Decides which of two records of an instance counts: the one with the higher fence. No two records have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence<'a> {
    /// [`DirectoryEntry::generation`].
    pub generation: u64,
    /// Decides between hubs that gave the same generation, by comparing bytes.
    pub hub: &'a HubId,
}

/// An operation that an instance offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedOperation {
    /// `namespace.name`.
    pub name: OperationName,
    /// Hash of its specification, in hexadecimal.
    pub hash: String,
}

/// A change of the directory.
#[derive(Clone, Debug, PartialEq)]
pub enum DirectoryChange {
    /// Everything that there is: what was known before is void. Comes first, and whenever changes may be missing.
    Snapshot(Vec<DirectoryEntry>),
    /// An instance came, moved or now offers other operations.
    Put(DirectoryEntry),
    /// An instance left.
    Remove {
        /// The spoke.
        spoke: SpokeName,
        /// Its instance.
        instance: InstanceId,
        /// The generation that ended, and those before it.
        generation: u64,
        /// The hub that held it.
        hub: HubId,
    },
    /// A hub is gone, and with it every entry that it held.
    HubGone(HubId),
    /// Nothing has changed: somebody waits for the reader to get here.
    Mark(FeedMark),
}

/// A place among the changes for which somebody waits.
#[derive(Clone, Debug)]
pub struct FeedMark(Arc<Notify>);

// === impl DirectoryChange ===

impl DirectoryChange {
    /// Roughly how many bytes it takes while it waits.
    pub(crate) fn weight(&self) -> usize {
        let named = match self {
            Self::Snapshot(entries) => entries.iter().map(DirectoryEntry::weight).sum(),
            Self::Put(entry) => entry.weight(),
            Self::Remove {
                spoke, instance, hub, ..
            } => spoke.as_str().len() + instance.as_str().len() + hub.as_str().len(),
            Self::HubGone(hub) => hub.as_str().len(),
            Self::Mark(_) => 0,
        };
        size_of::<Self>() + named
    }
}

// === impl FeedMark ===

impl FeedMark {
    /// A mark, and a future that completes when the reader has passed it. The caller sets a time limit: a reader that
    /// has ended passes nothing.
    pub(crate) fn new() -> (Self, impl Future<Output = ()>) {
        let passed = Arc::new(Notify::new());
        let mark = Self(Arc::clone(&passed));
        (mark, async move { passed.notified().await })
    }

    /// Tells whoever waits that the reader has applied everything before the mark.
    pub fn pass(&self) {
        self.0.notify_one();
    }
}

impl PartialEq for FeedMark {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

// === impl DirectoryEntry ===

impl DirectoryEntry {
    /// The fence, which decides between this record of the instance and another one.
    pub fn fence(&self) -> Fence<'_> {
        Fence {
            generation: self.generation,
            hub: &self.hub,
        }
    }

    /// Roughly how many bytes it takes.
    fn weight(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        let offered = |operation: &OfferedOperation| {
            size_of::<OfferedOperation>() + operation.name.as_str().len() + operation.hash.len()
        };
        let operations: usize = self.operations.iter().map(offered).sum();
        size_of::<Self>() + labels + self.host_info.as_ref().map_or(0, RawJson::len) + operations
    }
}
