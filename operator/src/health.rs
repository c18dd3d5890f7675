//! The state of this process: what `/readyz` decides by, and what metrics show.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::watch::Stores;

/// The kind of the Lease, which changes with every renewal: if its watch is silent, watches are dead.
pub(crate) const LEASE: &str = "Lease";

/// One per process; a new one assumes nothing good.
#[derive(Debug, Default)]
pub(crate) struct Health {
    leads: AtomicBool,
    reachable: AtomicBool,
    lost: AtomicBool,
    /// When a watch of each kind last brought something.
    heard: Mutex<HashMap<&'static str, Instant>>,
    /// The stores of the leader, and since when it has had them.
    stores: RwLock<Option<(Arc<Stores>, Instant)>>,
}

// === impl Health ===

impl Health {
    /// Sets whether this process holds the Lease from now on.
    pub(crate) fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// Whether this process holds the Lease.
    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Sets whether the API server answered about the Lease just now.
    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    /// Whether the API server answers about the Lease.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Notes that a part this process cannot live without is lost: it is unready for good, and ends.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether [`Health::lose`] was called.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Notes that a watch of the kind brought something.
    pub(crate) fn heard(&self, kind: &'static str) {
        self.heard.lock().insert(kind, Instant::now());
    }

    /// Time since a watch of the kind brought anything; `None` before the first.
    pub(crate) fn age(&self, kind: &str) -> Option<Duration> {
        self.heard.lock().get(kind).map(Instant::elapsed)
    }

    /// The same for every kind that brought anything.
    pub(crate) fn ages(&self) -> HashMap<&'static str, Duration> {
        self.heard
            .lock()
            .iter()
            .map(|(kind, at)| (*kind, at.elapsed()))
            .collect()
    }

    /// From now on these stores show what there is, as long as this process leads.
    pub(crate) fn observe(&self, stores: Option<Arc<Stores>>) {
        *self.stores.write() = stores.map(|stores| (stores, Instant::now()));
    }

    /// The stores of the leader.
    pub(crate) fn stores(&self) -> Option<Arc<Stores>> {
        self.stores.read().as_ref().map(|(stores, _)| Arc::clone(stores))
    }

    /// How long this process has led without knowing what there is; `None` if it knows, or does not lead.
    pub(crate) fn blind(&self) -> Option<Duration> {
        let stores = self.stores.read();
        let (stores, since) = stores.as_ref()?;
        (!stores.is_filled()).then(|| since.elapsed())
    }
}
