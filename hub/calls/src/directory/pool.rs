//! The instances that offer one operation by one specification.
//!
//! Invariants
//! - The specification of a pool never changes: when that of a name does, the name gets another pool. A call whose
//!   input was checked against one specification never goes to an instance that offers another.
//! - The cost of a change depends on what changed: how long it takes an instance to come or go does not depend on the
//!   others.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use alkhub_protocol::{OperationName, SpecHash};
use indexmap::IndexSet;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::time::Instant;

use super::{Instance, let_go};
use crate::directory::operation::Operation;
use crate::metrics::Series;

/// The state of a name.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) name: OperationName,
    /// The specification that its instances share; the last one if it has no instances.
    pub(crate) operation: Option<Arc<Operation>>,
    /// Whether instances are left out because their specification has still to be loaded.
    pub(crate) waits_for_spec: bool,
    /// Whether nobody offers the name: then its specification is only shown, and has no checks.
    rests: bool,
    /// When a hub let go of the last instance that offered the name.
    let_go: OnceLock<Instant>,
    members: RwLock<PoolMembers>,
}

/// The instances that a call can be sent to.
#[derive(Debug, Default)]
pub(crate) struct PoolMembers {
    /// With a connection to this hub.
    pub(crate) here: Group,
    /// On other hubs.
    pub(crate) elsewhere: Group,
}

/// Instances in no order, each once.
#[derive(Debug, Default)]
pub(crate) struct Group(IndexSet<Member>);

/// A registration, identified by its place in memory.
#[derive(Debug)]
struct Member(Arc<Instance>);

// === impl Pool ===

impl Pool {
    pub(crate) fn new(name: OperationName, operation: Option<Arc<Operation>>, waits_for_spec: bool) -> Self {
        Self {
            name,
            operation,
            waits_for_spec,
            rests: false,
            let_go: OnceLock::new(),
            members: RwLock::default(),
        }
    }

    /// A name that nobody offers. An operation that cannot be called takes no more memory than its texts.
    pub(super) fn resting(name: OperationName, last: Option<&Arc<Operation>>) -> Self {
        let shown = last.map(|last| Arc::new(last.unchecked()));
        Self {
            rests: true,
            ..Self::new(name, shown, false)
        }
    }

    /// Whether instances that offer this specification belong here.
    pub(super) fn is_of(&self, hash: &SpecHash) -> bool {
        !self.waits_for_spec && !self.rests && self.operation.as_ref().is_some_and(|own| own.hash == *hash)
    }

    /// Notes that a hub let go of the last instance that offered the name, if nobody offers it now.
    pub(super) fn note_let_go(&self) {
        if self.rests {
            let _ = self.let_go.set(Instant::now());
        }
    }

    /// Whether nobody offers the name because a hub has just let go of the last instance that did.
    pub(super) fn was_let_go(&self) -> bool {
        self.let_go.get().is_some_and(|at| let_go::is_recent(*at))
    }

    /// The metric series of its operation, if that is known.
    pub(crate) fn series(&self) -> Option<&Series> {
        self.operation.as_ref().map(|operation| &*operation.series)
    }

    /// Its instances. While the guard is held none comes or goes: hold it for a choice, and no longer.
    pub(crate) fn members(&self) -> RwLockReadGuard<'_, PoolMembers> {
        self.members.read()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let members = self.members();
        members.here.is_empty() && members.elsewhere.is_empty()
    }

    pub(crate) fn insert(&self, instance: &Arc<Instance>) {
        let member = Member(Arc::clone(instance));
        self.members.write().group(instance).0.insert(member);
    }

    pub(super) fn remove(&self, instance: &Arc<Instance>) {
        let member = Member(Arc::clone(instance));
        self.members.write().group(instance).0.swap_remove(&member);
    }
}

// === impl PoolMembers ===

impl PoolMembers {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.here.iter().chain(self.elsewhere.iter())
    }

    fn group(&mut self, instance: &Instance) -> &mut Group {
        if instance.session.is_some() {
            &mut self.here
        } else {
            &mut self.elsewhere
        }
    }
}

// === impl Group ===

impl Group {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Arc<Instance>> {
        self.0.get_index(at).map(|member| &member.0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.0.iter().map(|member| &member.0)
    }
}

// === impl Member ===

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Member {}

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}
