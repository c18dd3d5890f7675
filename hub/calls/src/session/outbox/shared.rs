//! The state that both ends of an outbox share.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use alkhub_budget::Budget;
use alkhub_protocol::Dialect;
use alkhub_queue::Limits;
use parking_lot::Mutex;

use super::contents::Contents;

/// A session's messages, and what is known about the session without its lock.
pub(super) struct Shared {
    pub(super) session: Arc<str>,
    pub(super) dialect: OnceLock<Dialect>,
    /// The peer names specifications by their hash.
    pub(super) by_hash: AtomicBool,
    /// Set with the lock held; read without it as a hint.
    pub(super) closed: AtomicBool,
    /// No connection serves the session, and its peer may come back.
    pub(super) detached: AtomicBool,
    /// The peer is to go to another hub once nothing is under way.
    pub(super) leaving: AtomicBool,
    /// Another hub goes on with the session; set with the lock held.
    pub(super) away: AtomicBool,
    /// The number of calls of the peer whose end is still to come.
    pub(super) awaited: AtomicUsize,
    /// The number of calls that run on the peer, as a spoke.
    pub(super) running: AtomicU32,
    pub(super) contents: Mutex<Contents>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(session: Arc<str>, limits: Limits, budget: &Budget) -> Self {
        Self {
            session,
            dialect: OnceLock::new(),
            by_hash: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            away: AtomicBool::new(false),
            awaited: AtomicUsize::new(0),
            running: AtomicU32::new(0),
            contents: Mutex::new(Contents::new(limits, budget)),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("session", &self.session)
            .field("queued", &self.contents.lock().len())
            .field("closed", &self.closed.load(Ordering::Acquire))
            .finish_non_exhaustive()
    }
}
