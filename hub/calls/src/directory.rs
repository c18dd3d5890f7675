//! Who offers what on all hubs, in memory.
//!
//! Fed by the change feed ([`crate::directory::feed`]) and by registrations on this hub; read by every call.
//!
//! Invariants
//! - Reading takes no lock that a change holds for longer than it takes one instance to come or go.
//! - The cost of a change depends on what changed, not on the size of the pool; only a different specification makes a
//!   new pool.
//! - Of the records that two hubs have of an instance, the one with the higher fence counts; of those that come from
//!   one other hub, the latest one.
//! - The instances of a pool offer one specification, the one of its oldest instance; the same on every hub.

pub(crate) mod compiled;
pub(crate) mod connected;
mod entering;
mod expected;
pub(crate) mod feed;
pub(crate) mod housekeeping;
mod idle;
mod instance;
mod let_go;
pub(crate) mod list;
pub(crate) mod names;
pub(crate) mod operation;
mod pool;
pub(crate) mod router;
pub(crate) mod specs;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use alkhub_hub_cluster::{DirectoryEntry, Fence};
use alkhub_protocol::{HubId, InstanceId, OperationName, SpecHash, SpokeName};
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::directory::compiled::Specs;
use crate::directory::operation::Operation;
use entering::Entering;
use expected::Expected;
use idle::Idle;
use instance::ByAge;
pub(crate) use instance::Instance;
use let_go::LetGo;
pub(crate) use pool::{Group, Pool, PoolMembers};

/// How many names are kept that nobody offers now, to tell `NO_PROVIDER` from `OPERATION_NOT_FOUND`.
const IDLE_NAMES: usize = 10_000;

/// The directory.
#[derive(Debug)]
pub(crate) struct Directory {
    specs: Arc<Specs>,
    pools: DashMap<OperationName, Arc<Pool>>,
    instances: DashMap<(SpokeName, InstanceId), Arc<Instance>>,
    changes: Mutex<Changes>,
    pub(crate) entering: Arc<Entering>,
}

/// The state that only changes need.
#[derive(Debug, Default)]
struct Changes {
    /// Every instance that offers a name, whatever its specification, oldest first.
    offers: HashMap<OperationName, BTreeSet<ByAge>>,
    /// How many instances a spoke has.
    spokes: HashMap<SpokeName, usize>,
    /// The specifications to load, by the names that wait for them, each with the spoke that it is charged to.
    missing: HashMap<OperationName, (SpecHash, SpokeName)>,
    /// Names that nobody offers.
    idle: Idle,
    /// Spokes that are away because hubs let them go.
    let_go: LetGo,
    /// The waiters for a change.
    expected: Expected,
    /// How often an instance was put into or taken out of a pool: the cost of changes, which tests compare.
    moves: usize,
}

/// The effect of a change.
#[derive(Debug)]
pub(crate) enum ChangeResult {
    /// The registration was put in; here is the one that it replaced.
    Put(Option<Arc<Instance>>),
    /// The registration was there already, and its connection is back.
    Back,
    /// The registration was there already, or a newer one.
    Stale,
}

// === impl Directory ===

impl Directory {
    pub(crate) fn new(specs: Arc<Specs>) -> Self {
        Self {
            specs,
            pools: DashMap::new(),
            instances: DashMap::new(),
            changes: Mutex::new(Changes::default()),
            entering: Arc::default(),
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
        self.changes.lock().spokes.contains_key(spoke)
    }

    /// Whether there is anybody to whom a call of this name can be sent.
    pub(crate) fn is_offered(&self, name: &OperationName) -> bool {
        self.pool(name).is_some_and(|pool| !pool.is_empty())
    }

    /// Waits while the specification of a name is being loaded; with `comes`, also until somebody offers it. The caller
    /// has to bound the wait.
    pub(crate) async fn settled(&self, name: &OperationName, comes: bool) {
        loop {
            let changed = {
                let mut changes = self.changes.lock();
                let is_loading = changes.missing.contains_key(name);
                if !is_loading && (!comes || self.is_offered(name)) {
                    return;
                }
                changes.expected.names.wait(name)
            };
            if changed.await.is_err() {
                return;
            }
        }
    }

    /// Waits until an instance can be called by each operation that it offers, under the registration with this fence
    /// or one that has replaced it; false if it never can. The caller has to bound the wait.
    pub(crate) async fn callable(&self, key: &(SpokeName, InstanceId), fence: Fence<'_>) -> bool {
        let names = loop {
            let came = {
                let mut changes = self.changes.lock();
                match self.instance(&key.0, &key.1) {
                    Some(instance) if instance.entry.fence() >= fence => break instance,
                    _ => changes.expected.instances.wait(key),
                }
            };
            if came.await.is_err() {
                return false;
            }
        };
        for name in names.offers.keys() {
            self.settled(name, false).await;
        }
        // A specification that was given up is never loaded: its pool keeps waiting.
        let mut pools = names.offers.keys().filter_map(|name| self.pool(name));
        pools.all(|pool| !pool.waits_for_spec)
    }

    /// Puts a registration in, unless a newer one is there.
    pub(crate) fn put(&self, instance: &Arc<Instance>) -> ChangeResult {
        let mut changes = self.changes.lock();
        let key = instance.key();
        let old = self.instances.get(&key).map(|old| Arc::clone(&old));
        if let Some(old) = old.as_ref().filter(|old| !instance.replaces(old)) {
            let is_back = instance.is_same_registration(old) && old.follow(instance);
            return if is_back {
                ChangeResult::Back
            } else {
                ChangeResult::Stale
            };
        }
        self.instances.insert(key, Arc::clone(instance));
        if old.is_none() {
            *changes.spokes.entry(instance.entry.spoke.clone()).or_default() += 1;
            changes.let_go.remove(&instance.entry.spoke);
        }
        for name in instance.offers.keys() {
            let before = old.as_ref().filter(|old| old.offers.contains_key(name));
            self.change(&mut changes, name, before, Some(instance));
        }
        if let Some(old) = &old {
            for name in old.offers.keys().filter(|name| !instance.offers.contains_key(*name)) {
                self.change(&mut changes, name, Some(old), None);
            }
        }
        changes.expected.instances.changed(&instance.key());
        ChangeResult::Put(old)
    }

    /// Removes the registration with this fence, or with one below it.
    pub(crate) fn remove(&self, key: &(SpokeName, InstanceId), fence: Fence<'_>) -> Option<Arc<Instance>> {
        let mut changes = self.changes.lock();
        let older = |_: &_, instance: &Arc<Instance>| instance.entry.fence() <= fence;
        let (_, instance) = self.instances.remove_if(key, older)?;
        changes.left(&instance.entry.spoke);
        for name in instance.offers.keys() {
            self.change(&mut changes, name, Some(&instance), None);
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

    /// The specifications that instances offer and this hub does not have, each with a spoke that offers it.
    pub(crate) fn missing(&self) -> Vec<(SpecHash, SpokeName)> {
        let changes = self.changes.lock();
        changes.missing.values().cloned().collect()
    }

    /// The names whose specifications are still to be loaded.
    pub(crate) fn loading(&self) -> Vec<OperationName> {
        self.changes.lock().missing.keys().cloned().collect()
    }

    /// Notes that a specification has arrived: its instances join their pool.
    pub(crate) fn resolved(&self, name: &OperationName, hash: &SpecHash) {
        let mut changes = self.changes.lock();
        changes.found(hash);
        self.rebuild(&mut changes, name);
        changes.expected.names.changed(name);
    }

    /// Notes that a specification cannot be used: it is not asked for again until a registration names it.
    pub(crate) fn give_up(&self, hash: &SpecHash) {
        self.changes.lock().found(hash);
    }

    /// Notes that a hub let go of an instance that has just left.
    pub(crate) fn note_let_go(&self, gone: &Instance) {
        let mut changes = self.changes.lock();
        for pool in gone.offers.keys().filter_map(|name| self.pool(name)) {
            pool.note_let_go();
        }
        let spoke = &gone.entry.spoke;
        if !changes.spokes.contains_key(spoke) {
            changes.let_go.add(spoke);
        }
    }

    /// Whether a call finds nobody only because hubs have just let go of the spoke that it is for, or of the last one
    /// that offered its operation. A spoke that has come back no longer counts as let go, whatever becomes of it then.
    pub(crate) fn was_let_go(&self, name: &OperationName, target: Option<&SpokeName>) -> bool {
        match target {
            Some(spoke) => self.changes.lock().let_go.has(spoke),
            None => self.pool(name).is_some_and(|pool| pool.was_let_go()),
        }
    }

    /// The oldest of the other instances that offer this name. The other session of the same program counts only if it
    /// offers the same specification: the program changes both, one after the other.
    pub(crate) fn offered_by_others(
        &self,
        operation: &Operation,
        own: &(SpokeName, InstanceId),
    ) -> Option<Arc<Instance>> {
        let changes = self.changes.lock();
        let twin = own.1.twin();
        let is_other = |instance: &Instance| {
            let DirectoryEntry {
                spoke, instance: id, ..
            } = &instance.entry;
            let is_twin = *spoke == own.0 && Some(id) == twin.as_ref();
            let is_own = *spoke == own.0 && *id == own.1;
            !is_own && (!is_twin || instance.offers.get(&operation.name) == Some(&operation.hash))
        };
        let mut by_age = changes.offers.get(&operation.name)?.iter();
        by_age.find(|instance| is_other(&instance.0)).map(|i| Arc::clone(&i.0))
    }

    /// Notes that a name was offered in a time that this hub does not remember.
    pub(crate) fn remember(&self, name: &OperationName) {
        let mut changes = self.changes.lock();
        if changes.offers.contains_key(name) || self.pools.contains_key(name) {
            return;
        }
        self.pools
            .insert(name.clone(), Arc::new(Pool::resting(name.clone(), None)));
        self.idle(&mut changes, name);
    }

    /// Lets an instance leave a name, take another's place there, or join it.
    #[expect(
        clippy::mutable_key_type,
        reason = "instances are ordered by their generation and names, which never change"
    )]
    fn change(
        &self,
        changes: &mut Changes,
        name: &OperationName,
        old: Option<&Arc<Instance>>,
        new: Option<&Arc<Instance>>,
    ) {
        let offers = changes.offers.entry(name.clone()).or_default();
        if let Some(old) = old {
            offers.remove(&ByAge(Arc::clone(old)));
        }
        if let Some(new) = new {
            offers.insert(ByAge(Arc::clone(new)));
        }
        let hash = offers.first().and_then(|oldest| oldest.0.offers.get(name)).copied();
        let pool = self.pool(name).filter(|pool| hash.is_none_or(|hash| pool.is_of(&hash)));
        let Some(pool) = pool else {
            self.rebuild(changes, name);
            return changes.expected.names.changed(name);
        };
        if let Some(old) = old {
            changes.moved(1);
            pool.remove(old);
        }
        if let Some(new) = new.filter(|new| new.offers.get(name) == hash.as_ref()) {
            changes.moved(1);
            pool.insert(new);
        }
        match hash {
            Some(_) => changes.idle.remove(name),
            None => self.rest(changes, name, pool.operation.as_ref()),
        }
        changes.expected.names.changed(name);
    }

    /// Clears up after the last instance has left a name.
    fn rest(&self, changes: &mut Changes, name: &OperationName, last: Option<&Arc<Operation>>) {
        changes.offers.remove(name);
        changes.missing.remove(name);
        let pool = Pool::resting(name.clone(), last);
        self.pools.insert(name.clone(), Arc::new(pool));
        self.idle(changes, name);
    }

    /// Makes a new pool for a name: it has none, or its specification has changed or has just been loaded.
    fn rebuild(&self, changes: &mut Changes, name: &OperationName) {
        changes.missing.remove(name);
        let known = self.pool(name).and_then(|pool| pool.operation.clone());
        let offers = changes.offers.get(name);
        let oldest = offers.and_then(BTreeSet::first);
        let oldest = oldest.and_then(|oldest| Some((oldest, *oldest.0.offers.get(name)?)));
        let Some((oldest, hash)) = oldest else {
            changes.offers.remove(name);
            return;
        };
        let operation = self.specs.get(&hash);
        let waits = operation.is_none();
        // An operation that cannot be called takes no more memory than its texts.
        let shown = operation.or_else(|| known.map(|known| Arc::new(known.unchecked())));
        let pool = Pool::new(name.clone(), shown, waits);
        if waits {
            let spoke = oldest.0.entry.spoke.clone();
            changes.missing.insert(name.clone(), (hash, spoke));
        } else {
            let same = |i: &&ByAge| i.0.offers.get(name) == Some(&hash);
            let same = offers.into_iter().flatten().filter(same);
            let moved = same.map(|instance| pool.insert(&instance.0)).count();
            changes.moved(moved);
        }
        changes.idle.remove(name);
        self.pools.insert(name.clone(), Arc::new(pool));
    }

    /// Keeps a name that nobody offers, and forgets those that have gone unoffered for longest.
    fn idle(&self, changes: &mut Changes, name: &OperationName) {
        changes.idle.add(name);
        while let Some(forgotten) = changes.idle.take_over(IDLE_NAMES) {
            self.pools.remove(&forgotten);
        }
    }
}

// === impl Changes ===

impl Changes {
    /// Notes that an instance of a spoke has left.
    fn left(&mut self, spoke: &SpokeName) {
        if let Some(count) = self.spokes.get_mut(spoke) {
            *count -= 1;
            if *count == 0 {
                self.spokes.remove(spoke);
            }
        }
    }

    /// Takes a specification off the list of those to load.
    fn found(&mut self, hash: &SpecHash) {
        let expected = &mut self.expected;
        self.missing.retain(|name, (missing, _)| {
            let is_found = missing == hash;
            if is_found {
                expected.names.changed(name);
            }
            !is_found
        });
    }

    /// Counts the work of changes.
    fn moved(&mut self, instances: usize) {
        self.moves += instances;
    }
}

#[cfg(test)]
mod tests;
