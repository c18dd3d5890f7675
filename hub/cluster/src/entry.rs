//! The records of the directory, as readers get them.

use std::collections::BTreeMap;

use alkhub_protocol::register::SpokeType;
use alkhub_protocol::{HubId, InstanceId, OperationName, RawJson, SpokeName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One connected instance of a spoke: the record that is fenced by its generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryEntry {
    /// The declared spoke.
    pub spoke: SpokeName,
    /// The running program.
    pub instance: InstanceId,
    /// The hub that holds its connection.
    pub hub: HubId,
    /// The connection, named by that hub.
    pub connection: String,
    /// The fencing number; [`Cluster::register_unless`](crate::Cluster::register_unless) sets it. Later registrations have higher ones; two hubs that were both
    /// cut off from Redis may give the same, so records are compared by their [`Fence`].
    #[serde(default)]
    pub generation: u64,
    /// Kind of spoke.
    #[serde(default)]
    pub spoke_type: SpokeType,
    /// Free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Calls that it takes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// When it connected.
    pub connected_at: Timestamp,
    /// The host that it reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_info: Option<RawJson>,
    /// What it offers.
    #[serde(default)]
    pub operations: Vec<OfferedOperation>,
}

/// Which of two records of an instance counts: the higher one. No two records have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence<'a> {
    /// [`DirectoryEntry::generation`].
    pub generation: u64,
    /// Decides between hubs that gave the same generation, byte by byte.
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
    /// Everything that is there: what was known before is void. Comes first, and whenever changes may be missing.
    Snapshot(Vec<DirectoryEntry>),
    /// An instance came, moved or offers other operations.
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
}

// === impl DirectoryEntry ===

impl DirectoryEntry {
    /// What decides between this record of the instance and another.
    pub fn fence(&self) -> Fence<'_> {
        Fence {
            generation: self.generation,
            hub: &self.hub,
        }
    }
}
