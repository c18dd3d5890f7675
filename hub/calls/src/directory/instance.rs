//! One registration of an instance, as calls see it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Memory};

use alkhub_hub_cluster::DirectoryEntry;
use alkhub_protocol::admin::InstanceState;
use alkhub_protocol::{InstanceId, OperationName, SpecHash, SpokeName};

use crate::session::{Load, Session};

/// One registration.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) entry: DirectoryEntry,
    /// Its operations, each with the hash of its specification, as far as they can be read.
    pub(crate) offers: HashMap<OperationName, SpecHash>,
    /// Its session, when this hub holds it.
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) load: Arc<Load>,
    /// For an instance that this hub holds: the generation since which its session has offered an operation by the same
    /// specification, where that differs from the record's generation.
    since: HashMap<OperationName, u64>,
    /// For an instance that another hub holds: its connection is lost, and may come back.
    is_reconnecting: AtomicBool,
}

/// Orders registrations by their age, in the same way on every hub.
#[derive(Clone, Debug)]
pub(super) struct ByAge(pub(super) Arc<Instance>);

// === impl Instance ===

impl Instance {
    pub(crate) fn new(entry: DirectoryEntry, session: Option<Arc<Session>>) -> Self {
        let offers = entry.operations.iter();
        let offers = offers.filter_map(|offer| Some((offer.name.clone(), offer.hash.parse().ok()?)));
        Self {
            offers: offers.collect(),
            load: session
                .as_ref()
                .map_or_else(Arc::default, |session| Arc::clone(&session.load)),
            is_reconnecting: AtomicBool::new(entry.state == InstanceState::Reconnecting),
            since: HashMap::new(),
            entry,
            session,
        }
    }

    /// An instance that another hub holds, in the place of an earlier registration: the calls of this hub that run
    /// there stay counted.
    pub(crate) fn elsewhere(entry: DirectoryEntry, before: Option<&Self>) -> Self {
        let mut instance = Self::new(entry, None);
        if let Some(before) = before.filter(|before| before.session.is_none()) {
            instance.load = Arc::clone(&before.load);
        }
        instance
    }

    /// The same instance, following an earlier record of its session.
    pub(crate) fn after(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            let same = self.offers.iter();
            let same = same.filter(|(name, hash)| before.offers.get(*name) == Some(*hash));
            let since = same.map(|(name, _)| (name.clone(), before.since(name)));
            self.since = since.collect();
        }
        self
    }

    fn since(&self, name: &OperationName) -> u64 {
        self.since.get(name).copied().unwrap_or(self.entry.generation)
    }

    /// Whether it offers an operation, and already did, by the same specification, when its session had this
    /// generation.
    pub(crate) fn has_offered(&self, name: &OperationName, generation: u64) -> bool {
        self.offers.contains_key(name) && (self.since(name)..=self.entry.generation).contains(&generation)
    }

    /// Whether its connection is lost, and it may come back.
    pub(crate) fn is_reconnecting(&self) -> bool {
        match &self.session {
            Some(session) => session.outbox.is_detached(),
            None => self.is_reconnecting.load(Memory::Acquire),
        }
    }

    /// Takes over the state of its connection from a later record of the same registration; true if the connection is
    /// back.
    pub(super) fn follow(&self, later: &Self) -> bool {
        let is_reconnecting = later.entry.state == InstanceState::Reconnecting;
        self.is_reconnecting.swap(is_reconnecting, Memory::AcqRel) && !is_reconnecting
    }

    pub(crate) fn key(&self) -> (SpokeName, InstanceId) {
        (self.entry.spoke.clone(), self.entry.instance.clone())
    }

    pub(crate) fn slots(&self) -> Option<u32> {
        self.entry.concurrency
    }

    pub(crate) fn has_slot(&self) -> bool {
        self.slots().is_none_or(|slots| self.load.get() < slots)
    }

    pub(crate) fn is_same_registration(&self, other: &Self) -> bool {
        self.entry.fence() == other.entry.fence()
            && self.entry.spoke == other.entry.spoke
            && self.entry.instance == other.entry.instance
    }

    /// Whether it takes the place of `old`, a registration of the same instance.
    pub(super) fn replaces(&self, old: &Self) -> bool {
        let fed_by_one_hub = self.session.is_none() && old.session.is_none() && self.entry.hub == old.entry.hub;
        if fed_by_one_hub {
            // The feed keeps them in order; a hub that got no answer from Redis may have gone on with a lower
            // generation.
            return !self.is_same_registration(old);
        }
        self.entry.fence() > old.entry.fence()
    }

    /// Whether this is a registration of the given session.
    pub(crate) fn is_of(&self, session: &Arc<Session>) -> bool {
        self.session.as_ref().is_some_and(|own| Arc::ptr_eq(own, session))
    }
}

// === impl ByAge ===

impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> Ordering {
        let (own, other) = (&self.0.entry, &other.0.entry);
        own.fence()
            .cmp(&other.fence())
            .then_with(|| own.spoke.cmp(&other.spoke))
            .then_with(|| own.instance.cmp(&other.instance))
    }
}

impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByAge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ByAge {}
