//! Who offers what, of all hubs, in memory.
//!
//! Fed by the change feed ([`crate::feed`]) and by registrations on this hub; read by every call.
//!
//! Invariants
//! - Reading takes no lock that a change holds for longer than the swap of one pool.
//! - Of records of two hubs the one with the higher fence counts; of one other hub the one that came last.
//! - The instances of a pool offer one specification, the one of its oldest instance; the same on every hub.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use alkhub_events::{DirectoryEntry, Fence};
use alkhub_protocol::{HubId, InstanceId, OperationName, SpokeName};
use alkhub_store::SpecHash;
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::compiled::Specs;
use crate::link::{Link, Load};
use crate::operation::Operation;

/// Names kept that nobody offers now, to tell `NO_PROVIDER` from `OPERATION_NOT_FOUND`.
const IDLE_NAMES: usize = 10_000;

/// One registration.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) entry: DirectoryEntry,
    /// Its operations with their hashes as far as they can be read.
    pub(crate) offers: HashMap<OperationName, SpecHash>,
    /// Its connection, when this hub holds it.
    pub(crate) link: Option<Arc<Link>>,
    pub(crate) load: Arc<Load>,
}

/// The instances that offer one operation.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) name: OperationName,
    /// The specification that its instances share; the last one when there is none.
    pub(crate) operation: Option<Arc<Operation>>,
    /// With a connection to this hub.
    pub(crate) here: Vec<Arc<Instance>>,
    /// On other hubs.
    pub(crate) elsewhere: Vec<Arc<Instance>>,
    /// Whether instances are left out because their specification is still to be loaded.
    pub(crate) waits_for_spec: bool,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Directory {
    specs: Arc<Specs>,
    pools: DashMap<OperationName, Arc<Pool>>,
    instances: DashMap<(SpokeName, InstanceId), Arc<Instance>>,
    changes: Mutex<Changes>,
}

/// What only changes need.
#[derive(Debug, Default)]
struct Changes {
    /// Every instance that offers a name, whatever its specification.
    offers: HashMap<OperationName, Vec<Arc<Instance>>>,
    /// Specifications to be loaded, each with the spoke that it is charged to.
    missing: HashMap<SpecHash, SpokeName>,
    /// Names that nobody offers, oldest first.
    idle: VecDeque<OperationName>,
}

/// What a change did.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was put; here the registration that it replaced.
    Put(Option<Arc<Instance>>),
    /// A newer registration is there.
    Stale,
}

// === impl Instance ===

impl Instance {
    pub(crate) fn new(entry: DirectoryEntry, link: Option<Arc<Link>>) -> Self {
        let offers = entry.operations.iter();
        let offers = offers.filter_map(|offer| Some((offer.name.clone(), offer.hash.parse().ok()?)));
        Self {
            offers: offers.collect(),
            load: link.as_ref().map_or_else(Arc::default, |link| Arc::clone(&link.load)),
            entry,
            link,
        }
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

    /// Whether it takes the place of a registration of the same instance.
    fn replaces(&self, old: &Self) -> bool {
        let fed_by_one_hub = self.link.is_none() && old.link.is_none() && self.entry.hub == old.entry.hub;
        if fed_by_one_hub {
            // The feed has them in order; a hub without an answer of Redis may have gone on with a lower generation.
            return !self.is_same_registration(old);
        }
        self.entry.fence() > old.entry.fence()
    }

    /// The older one first; the same order on every hub.
    fn by_age(&self, other: &Self) -> std::cmp::Ordering {
        let age = |i: &Self| i.entry.generation;
        age(self)
            .cmp(&age(other))
            .then_with(|| self.entry.spoke.cmp(&other.entry.spoke))
            .then_with(|| self.entry.instance.cmp(&other.entry.instance))
    }

    /// Whether this is a registration of the given connection.
    pub(crate) fn is_on(&self, link: &Arc<Link>) -> bool {
        self.link.as_ref().is_some_and(|own| Arc::ptr_eq(own, link))
    }
}

// === impl Pool ===

impl Pool {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.here.iter().chain(&self.elsewhere)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.elsewhere.is_empty()
    }
}

// === impl Directory ===

impl Directory {
    pub(crate) fn new(specs: Arc<Specs>) -> Self {
        Self {
            specs,
            pools: DashMap::new(),
            instances: DashMap::new(),
            changes: Mutex::new(Changes::default()),
        }
    }

    pub(crate) fn pool(&self, name: &OperationName) -> Option<Arc<Pool>> {
        self.pools.get(name).map(|pool| Arc::clone(&pool))
    }

    /// Every pool with instances, by name.
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        let mut pools: Vec<_> = self.pools.iter().map(|pool| Arc::clone(&pool)).collect();
        pools.retain(|pool| !pool.is_empty());
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        pools
    }

    pub(crate) fn instance(&self, spoke: &SpokeName, instance: &InstanceId) -> Option<Arc<Instance>> {
        let key = (spoke.clone(), instance.clone());
        self.instances.get(&key).map(|instance| Arc::clone(&instance))
    }

    /// Every instance, by spoke and id.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        let mut instances: Vec<_> = self.instances.iter().map(|i| Arc::clone(&i)).collect();
        instances.sort_by_key(|instance| instance.key());
        instances
    }

    pub(crate) fn len(&self) -> usize {
        self.instances.len()
    }

    pub(crate) fn has_instances_of(&self, spoke: &SpokeName) -> bool {
        self.instances.iter().any(|instance| instance.entry.spoke == *spoke)
    }

    /// Puts a registration unless a newer one is there.
    pub(crate) fn put(&self, instance: &Arc<Instance>) -> Outcome {
        let mut changes = self.changes.lock();
        let key = instance.key();
        let old = self.instances.get(&key).map(|old| Arc::clone(&old));
        if old.as_ref().is_some_and(|old| !instance.replaces(old)) {
            return Outcome::Stale;
        }
        self.instances.insert(key, Arc::clone(instance));
        if let Some(old) = &old {
            changes.withdraw(old);
        }
        for name in instance.offers.keys() {
            let offers = changes.offers.entry(name.clone()).or_default();
            offers.push(Arc::clone(instance));
        }
        let before = old.iter().flat_map(|old| old.offers.keys());
        let names: HashSet<&OperationName> = before.chain(instance.offers.keys()).collect();
        for name in names {
            self.rebuild(&mut changes, name);
        }
        Outcome::Put(old)
    }

    /// Removes the registration of this fence or one below it.
    pub(crate) fn remove(&self, key: &(SpokeName, InstanceId), fence: Fence<'_>) -> Option<Arc<Instance>> {
        let mut changes = self.changes.lock();
        let older = |_: &_, instance: &Arc<Instance>| instance.entry.fence() <= fence;
        let (_, instance) = self.instances.remove_if(key, older)?;
        changes.withdraw(&instance);
        for name in instance.offers.keys() {
            self.rebuild(&mut changes, name);
        }
        Some(instance)
    }

    /// Removes everything that another hub held.
    pub(crate) fn remove_hub(&self, hub: &HubId) -> usize {
        let gone: Vec<_> = self
            .instances
            .iter()
            .filter(|i| i.entry.hub == *hub)
            .map(|i| Arc::clone(&i))
            .collect();
        let removed = gone.iter().filter_map(|i| self.remove(&i.key(), i.entry.fence()));
        removed.count()
    }

    /// Specifications that instances offer and this hub does not have, each with a spoke that offers it.
    pub(crate) fn missing(&self) -> Vec<(SpecHash, SpokeName)> {
        let changes = self.changes.lock();
        let missing = changes.missing.iter();
        missing.map(|(hash, spoke)| (*hash, spoke.clone())).collect()
    }

    /// Notes that a specification is there now: its instances join their pool.
    pub(crate) fn resolved(&self, name: &OperationName, hash: &SpecHash) {
        let mut changes = self.changes.lock();
        changes.missing.remove(hash);
        self.rebuild(&mut changes, name);
    }

    /// Notes that a specification cannot be used: it is not asked for again until a registration names it.
    pub(crate) fn give_up(&self, hash: &SpecHash) {
        self.changes.lock().missing.remove(hash);
    }

    /// What instances other than the given one offer under a name, by the oldest of them.
    pub(crate) fn offered_by_others(
        &self,
        name: &OperationName,
        own: &(SpokeName, InstanceId),
    ) -> Option<Arc<Instance>> {
        let changes = self.changes.lock();
        let others = changes.offers.get(name)?.iter().filter(|i| i.key() != *own);
        others.min_by(|a, b| a.by_age(b)).cloned()
    }

    fn rebuild(&self, changes: &mut Changes, name: &OperationName) {
        let known = self.pool(name).and_then(|pool| pool.operation.clone());
        let mut pool = Pool {
            name: name.clone(),
            operation: None,
            here: Vec::new(),
            elsewhere: Vec::new(),
            waits_for_spec: false,
        };
        let offers = changes.offers.get(name).map_or(&[][..], Vec::as_slice);
        let oldest = offers.iter().min_by(|a, b| a.by_age(b));
        if let Some((oldest, hash)) = oldest.and_then(|oldest| Some((oldest, oldest.offers.get(name)?))) {
            pool.operation = self.specs.get(hash);
            if pool.operation.is_none() {
                pool.waits_for_spec = true;
                changes.missing.insert(*hash, oldest.entry.spoke.clone());
            } else {
                let same = offers.iter().filter(|i| i.offers.get(name) == Some(hash)).cloned();
                (pool.here, pool.elsewhere) = same.partition(|i| i.link.is_some());
            }
        }
        if offers.is_empty() {
            changes.offers.remove(name);
            changes.idle.push_back(name.clone());
        }
        // What cannot be called takes no more memory than its texts.
        pool.operation = pool
            .operation
            .or_else(|| known.map(|known| Arc::new(known.unchecked())));
        self.pools.insert(name.clone(), Arc::new(pool));
        self.forget(changes);
    }

    /// Forgets the names that nobody has offered for longest.
    fn forget(&self, changes: &mut Changes) {
        while changes.idle.len() > IDLE_NAMES {
            let Some(name) = changes.idle.pop_front() else { return };
            if !changes.offers.contains_key(&name) {
                self.pools.remove(&name);
            }
        }
    }
}

// === impl Changes ===

impl Changes {
    fn withdraw(&mut self, instance: &Arc<Instance>) {
        for name in instance.offers.keys() {
            if let Some(offers) = self.offers.get_mut(name) {
                offers.retain(|offer| !Arc::ptr_eq(offer, instance));
            }
        }
    }
}

#[cfg(test)]
mod tests;
