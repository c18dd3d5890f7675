//! An instance's presence on this hub: who it is, what runs on it, and how it is spoken to.
//!
//! A session is not a socket. It has an [`Outbox`], which whoever has something to say to the peer pushes into, and a socket
//! serves it: the surface lends the outbox's reading end to one connection at a time.
//!
//! Invariants
//! - A session is one instance of one spoke for as long as it lives.
//! - Only its end seals its outbox, and nothing that a connection does.

mod load;
mod registration;
pub(crate) mod spoken;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alkhub_budget::Held;
use alkhub_protocol::{InstanceId, SpokeName};
use parking_lot::Mutex;

use crate::outbox::Outbox;
pub(crate) use load::Load;
pub use registration::Registration;
pub(crate) use registration::RegistrationContext;

/// An instance that has registered, or is about to.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) spoke: SpokeName,
    pub(crate) instance: InstanceId,
    /// Where calls to the spoke go.
    pub(crate) outbox: Outbox,
    pub(crate) load: Arc<Load>,
    /// The generation of its last registration; earlier ones do nothing.
    generation: AtomicU64,
    /// Whether the spoke was heard since the last batch of heartbeats.
    heard: AtomicBool,
    /// Set before the directory forgets it, which takes a moment: nobody chooses it from then on.
    ended: AtomicBool,
    /// Keys of its running calls; `None` once it has ended.
    calls: Mutex<Option<HashSet<u64>>>,
    /// What its last registration makes this hub keep.
    held: Mutex<Option<Held>>,
}

// === impl Session ===

impl Session {
    pub(crate) fn new(spoke: SpokeName, instance: InstanceId, outbox: Outbox) -> Self {
        Self {
            spoke,
            instance,
            outbox,
            load: Arc::default(),
            generation: AtomicU64::new(0),
            heard: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            calls: Mutex::new(Some(HashSet::new())),
            held: Mutex::new(None),
        }
    }

    /// Unique on this hub.
    pub(crate) fn id(&self) -> &Arc<str> {
        self.outbox.session()
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
        !self.ended.load(Ordering::Acquire) && !self.outbox.is_closed()
    }

    /// Notes a call; false when the session has ended.
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

    /// Whether it has not ended.
    pub(crate) fn is_registered(&self) -> bool {
        self.calls.lock().is_some()
    }

    /// Ends the session and takes its calls; `None` when it had ended before.
    pub(crate) fn end(&self) -> Option<HashSet<u64>> {
        self.ended.store(true, Ordering::Release);
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
