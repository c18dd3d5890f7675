//! One connection of a spoke's instance on this hub, and the calls that run on it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use alkhub_budget::Held;
use alkhub_protocol::{Dialect, InstanceId, SpokeName};
use parking_lot::Mutex;

use crate::outbox::Outbox;

/// The connection by which a spoke registers.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its id, unique on this hub; the instance's id comes from it where the spoke gives none.
    pub id: String,
    /// Where calls to the spoke go.
    pub outbox: Outbox,
    /// How the spoke writes request ids.
    pub dialect: Dialect,
}

/// A registered connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) spoke: SpokeName,
    pub(crate) instance: InstanceId,
    pub(crate) connection: Connection,
    pub(crate) load: std::sync::Arc<Load>,
    /// The generation of its last registration; sessions of earlier ones do nothing.
    generation: AtomicU64,
    /// Whether the spoke was heard since the last batch of heartbeats.
    heard: AtomicBool,
    /// Said before the directory forgets it, which takes a moment: nobody chooses it from then on.
    lost: AtomicBool,
    /// Keys of its running calls; `None` once it is lost.
    calls: Mutex<Option<HashSet<u64>>>,
    /// What its last registration makes this hub keep.
    held: Mutex<Option<Held>>,
}

/// Calls that run on an instance, as far as this hub knows.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU32);

// === impl Link ===

impl Link {
    pub(crate) fn new(spoke: SpokeName, instance: InstanceId, connection: Connection) -> Self {
        Self {
            spoke,
            instance,
            connection,
            load: std::sync::Arc::default(),
            generation: AtomicU64::new(0),
            heard: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            calls: Mutex::new(Some(HashSet::new())),
            held: Mutex::new(None),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Keeps the charge of its registration, in place of the one before.
    pub(crate) fn hold(&self, held: Held) {
        let before = self.held.lock().replace(held);
        drop(before);
    }

    /// Whether calls may be sent to it.
    pub(crate) fn is_open(&self) -> bool {
        !self.lost.load(Ordering::Acquire) && !self.connection.outbox.is_closed()
    }

    /// Notes a call; false when the link is lost.
    pub(crate) fn add(&self, key: u64) -> bool {
        self.calls.lock().as_mut().is_some_and(|calls| {
            calls.insert(key);
            true
        })
    }

    pub(crate) fn remove(&self, key: u64) {
        if let Some(calls) = self.calls.lock().as_mut() {
            calls.remove(&key);
        }
    }

    /// The keys of its running calls.
    pub(crate) fn running(&self) -> Vec<u64> {
        self.calls.lock().iter().flatten().copied().collect()
    }

    /// Whether it is not lost.
    pub(crate) fn is_registered(&self) -> bool {
        self.calls.lock().is_some()
    }

    /// Marks the link as lost and takes its calls; `None` when it was lost before.
    pub(crate) fn lose(&self) -> Option<HashSet<u64>> {
        self.lost.store(true, Ordering::Release);
        drop(self.held.lock().take());
        self.calls.lock().take()
    }

    pub(crate) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Whether the spoke was heard since this was last asked.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }
}

// === impl Load ===

impl Load {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a slot unless all are taken.
    pub(crate) fn reserve(&self, slots: Option<u32>) -> bool {
        let slots = slots.unwrap_or(u32::MAX);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |busy| {
                (busy < slots).then_some(busy + 1)
            })
            .is_ok()
    }

    pub(crate) fn release(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
