//! How an entry is stored in Redis: a field of the hash, and `{generation} {hub} {entry as JSON}`.

use alkhub_protocol::json::strict;
use alkhub_protocol::{InstanceId, SpokeName};
use alkhub_redis::DirectoryRecord;

use crate::entry::DirectoryEntry;

/// The key of a record: one instance of one spoke.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct InstanceKey {
    pub(super) spoke: SpokeName,
    pub(super) instance: InstanceId,
}

// === impl InstanceKey ===

impl InstanceKey {
    pub(super) fn of(entry: &DirectoryEntry) -> Self {
        Self {
            spoke: entry.spoke.clone(),
            instance: entry.instance.clone(),
        }
    }

    /// The field in the hash. The name of a spoke contains no `/`, and neither part contains a space.
    pub(super) fn field(&self) -> String {
        format!("{}/{}", self.spoke, self.instance)
    }

    pub(super) fn read(field: &str) -> Option<Self> {
        let (spoke, instance) = field.split_once('/')?;
        Some(Self {
            spoke: spoke.parse().ok()?,
            instance: instance.parse().ok()?,
        })
    }
}

/// Encodes an entry of this hub.
pub(super) fn write(entry: &DirectoryEntry) -> DirectoryRecord {
    DirectoryRecord {
        field: InstanceKey::of(entry).field(),
        generation: entry.generation,
        entry: serde_json::to_string(entry).expect("an entry has a JSON form"),
    }
}

/// Decodes an entry of the hash. What precedes the JSON is authoritative.
pub(super) fn read(field: &str, value: &str) -> Option<DirectoryEntry> {
    let mut parts = value.splitn(3, ' ');
    let generation = parts.next()?.parse().ok()?;
    let hub = parts.next()?.parse().ok()?;
    let entry: DirectoryEntry = strict::from_str(parts.next()?).ok()?;
    let entry = DirectoryEntry {
        generation,
        hub,
        ..entry
    };
    (InstanceKey::of(&entry) == InstanceKey::read(field)?).then_some(entry)
}
