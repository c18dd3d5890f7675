//! How this process is: what `/readyz` decides by, and what metrics show.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::watch::Stores;

/// The kind of the Lease, which changes with every renewal: the silence of its watch shows that watches are dead.
pub(crate) const LEASE: &str = "Lease";

/// One for each process; of one that has just begun nothing good is known.
#[derive(Debug, Default)]
pub(crate) struct Health {
    leads: AtomicBool,
    reachable: AtomicBool,
    lost: AtomicBool,
    /// When a watch of each kind last brought something.
    heard: Mutex<HashMap<&'static str, Instant>>,
    /// Those of the leader, and since when.
    stores: RwLock<Option<(Arc<Stores>, Instant)>>,
}

// === impl Health ===

impl Health {
    /// Whether this process holds the Lease, from now on.
    pub(crate) fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// Whether this process holds the Lease.
    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Whether the API server answers about the Lease, as it did or did not just now.
    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    /// Whether the API server answers about the Lease.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// A part that this process lives by is lost: it is unready for good, and ends.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether [`Health::lose`] was called.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// A watch of the kind brought something.
    pub(crate) fn heard(&self, kind: &'static str) {
        self.heard.lock().insert(kind, Instant::now());
    }

    /// Time since a watch of the kind brought anything; `None` before the first.
    pub(crate) fn age(&self, kind: &str) -> Option<Duration> {
        self.heard.lock().get(kind).map(Instant::elapsed)
    }

    /// The same of every kind that brought anything.
    pub(crate) fn ages(&self) -> HashMap<&'static str, Duration> {
        self.heard
            .lock()
            .iter()
            .map(|(kind, at)| (*kind, at.elapsed()))
            .collect()
    }

    /// What there is comes from these stores while this process leads.
    pub(crate) fn observe(&self, stores: Option<Arc<Stores>>) {
        *self.stores.write() = stores.map(|stores| (stores, Instant::now()));
    }

    /// The stores of the leader.
    pub(crate) fn stores(&self) -> Option<Arc<Stores>> {
        self.stores.read().as_ref().map(|(stores, _)| Arc::clone(stores))
    }

    /// How long this process has led without knowing what there is; `None`: it knows, or does not lead.
    pub(crate) fn blind(&self) -> Option<Duration> {
        let stores = self.stores.read();
        let (stores, since) = stores.as_ref()?;
        (!stores.is_filled()).then(|| since.elapsed())
    }
}
