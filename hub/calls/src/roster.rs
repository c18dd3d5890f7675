//! Spokes as people see them: what Postgres keeps of each, together with what is connected now.
//!
//! Invariants
//! - However many spokes there are, only a few are in memory at a time: records come from Postgres in batches, and the
//!   instances are those of the directory.
//! - Each spoke appears once, whether it is declared, connected, or both.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::iter::Peekable;
use std::vec::IntoIter;

use alkhub_protocol::SpokeName;
use alkhub_protocol::admin::{InstanceState, SpokeInfo, SpokeStatus};
use alkhub_protocol::register::SpokeType;
use alkhub_store::{Error, HashKey, SpokeRecord, Store};
use jiff::Timestamp;

use crate::{Calls, Connected};

/// How many records are read at once.
const BATCH: u32 = 100;

/// Spokes by name, declared or not, read as they are asked for.
#[derive(Debug)]
pub struct Roster {
    store: Store,
    /// The secret whose keys get hints; with `None`, none do.
    hints_of: Option<HashKey>,
    connected: Peekable<IntoIter<Connected>>,
    records: VecDeque<SpokeRecord>,
    hints: HashMap<SpokeName, String>,
    /// Records after this name are not read yet; `None` once all are.
    after: Option<String>,
}

/// A summary of the connected instances of one spoke.
struct Presence {
    /// When the first of its present instances connected; `None` if there are none.
    since: Option<Timestamp>,
    /// Whether one is really connected, and not only reconnecting.
    is_there: bool,
    operations: Vec<String>,
}

/// A spoke that has a record, with its instances.
pub fn spoke(calls: &Calls, record: SpokeRecord, key_hint: Option<String>) -> SpokeInfo {
    let mut connected = calls.connected();
    connected.retain(|instance| *instance.spoke() == record.name);
    let info = recorded(record, Presence::of(&connected), key_hint);
    SpokeInfo {
        instances: connected.iter().map(Connected::info).collect(),
        ..info
    }
}

// === impl Roster ===

impl Roster {
    /// The spokes whose names come after `after`, with hints of the keys that were hashed under the secret `hints_of`.
    /// The first batch has already been read when this returns.
    ///
    /// # Errors
    /// Postgres did not answer.
    pub async fn read(calls: &Calls, store: &Store, after: &str, hints_of: Option<HashKey>) -> Result<Self, Error> {
        let mut connected = calls.connected();
        connected.retain(|instance| instance.spoke().as_str() > after);
        let mut roster = Self {
            store: store.clone(),
            hints_of,
            connected: connected.into_iter().peekable(),
            records: VecDeque::new(),
            hints: HashMap::new(),
            after: Some(after.to_owned()),
        };
        roster.read_on().await?;
        Ok(roster)
    }

    /// The next spoke, without its instances, and the instances apart; `None` after the last one.
    ///
    /// # Errors
    /// Postgres did not answer.
    pub async fn next(&mut self) -> Result<Option<(SpokeInfo, Vec<Connected>)>, Error> {
        if self.records.is_empty() {
            self.read_on().await?;
        }
        let declared = self.records.front().map(|record| record.name.clone());
        let connected = self.connected.peek().map(|instance| instance.spoke().clone());
        let Some(name) = declared.iter().chain(&connected).min().cloned() else {
            return Ok(None);
        };
        let mut instances = Vec::new();
        while let Some(instance) = self.connected.next_if(|instance| *instance.spoke() == name) {
            instances.push(instance);
        }
        let presence = Presence::of(&instances);
        let spoke = match self.records.pop_front_if(|record| record.name == name) {
            Some(record) => recorded(record, presence, self.hints.remove(&name)),
            None => undeclared(name, presence),
        };
        Ok(Some((spoke, instances)))
    }

    /// Reads the next batch of records, unless all have been read.
    async fn read_on(&mut self) -> Result<(), Error> {
        let Some(after) = self.after.take() else { return Ok(()) };
        let store = self.store.spokes();
        self.records = store.after(&after, BATCH).await?.into();
        if u32::try_from(self.records.len()).is_ok_and(|count| count == BATCH) {
            self.after = self.records.back().map(|record| record.name.to_string());
        }
        if let Some(hash_key) = &self.hints_of {
            let names: Vec<SpokeName> = self.records.iter().map(|record| record.name.clone()).collect();
            self.hints = store.key_hints(&names, hash_key).await?;
        }
        Ok(())
    }
}

// === impl Presence ===

impl Presence {
    fn of(instances: &[Connected]) -> Self {
        let operations: BTreeSet<_> = instances.iter().flat_map(Connected::operations).collect();
        Self {
            since: instances.iter().map(Connected::since).min(),
            is_there: instances
                .iter()
                .any(|instance| instance.state() == InstanceState::Connected),
            operations: operations.into_iter().map(ToString::to_string).collect(),
        }
    }

    fn status(&self) -> SpokeStatus {
        match (self.since, self.is_there) {
            (None, _) => SpokeStatus::Disconnected,
            (Some(_), false) => SpokeStatus::Reconnecting,
            (Some(_), true) => SpokeStatus::Connected,
        }
    }
}

/// A spoke that has a record, without its instances.
fn recorded(record: SpokeRecord, presence: Presence, key_hint: Option<String>) -> SpokeInfo {
    let status = match record.suspended {
        true => SpokeStatus::Suspended,
        false => presence.status(),
    };
    SpokeInfo {
        // A spoke that no resource declares has no declaration that could get lost.
        declaration_digest: (!record.uid.is_empty()).then(|| record.declaration().digest()),
        key_hint,
        name: record.name,
        uid: record.uid,
        spoke_type: record.spoke_type,
        status,
        operations: presence.operations,
        labels: record.labels,
        connected_at: record.connected_at,
        disconnected_at: record.disconnected_at.filter(|_| presence.since.is_none()),
        last_heartbeat_at: record.last_heartbeat_at,
        instances: Vec::new(),
    }
}

/// A spoke that is connected but not yet, or no longer, in Postgres; without its instances.
fn undeclared(name: SpokeName, presence: Presence) -> SpokeInfo {
    SpokeInfo {
        name,
        uid: String::new(),
        spoke_type: SpokeType::default(),
        status: presence.status(),
        connected_at: presence.since,
        instances: Vec::new(),
        operations: presence.operations,
        labels: BTreeMap::new(),
        disconnected_at: None,
        last_heartbeat_at: None,
        declaration_digest: None,
        key_hint: None,
    }
}
