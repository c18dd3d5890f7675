//! One key in memory, shared by its requests and its sockets, so that a change reaches them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alkhub_calls::{Caller, SpokePolicy};
use alkhub_protocol::{Scopes, scope};
use alkhub_store::{KeyHash, KeyRecord};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::{Bucket, Slots};

/// A key as it was last looked up.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its id, in logs and call records.
    pub(crate) id: Arc<str>,
    pub(super) hash: KeyHash,
    pub(super) bucket: Bucket,
    /// Its open WebSockets.
    pub(crate) sockets: Slots,
    state: ArcSwap<State>,
    looked_up: Mutex<Option<Instant>>,
    refreshing: AtomicBool,
    last_used: Mutex<Option<Timestamp>>,
}

#[derive(Debug)]
struct State {
    caller: Arc<Caller>,
    expires_at: Option<Timestamp>,
    revoked: bool,
}

/// What a key is worth now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    Revoked,
    Expired,
    Suspended,
}

/// The right to refresh a key; one has it at a time.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a AtomicBool);

// === impl Key ===

impl Key {
    pub(super) fn new(hash: KeyHash, record: &KeyRecord) -> Self {
        Self {
            id: record.id.as_str().into(),
            hash,
            bucket: Bucket::default(),
            sockets: Slots::default(),
            state: ArcSwap::from_pointee(State::of(record)),
            looked_up: Mutex::new(Some(Instant::now())),
            refreshing: AtomicBool::new(false),
            last_used: Mutex::new(None),
        }
    }

    /// Who holds it.
    pub(crate) fn caller(&self) -> Arc<Caller> {
        self.state.load().caller.clone()
    }

    /// What it is worth.
    pub(crate) fn standing(&self, now: Timestamp) -> Standing {
        let state = self.state.load();
        if state.revoked {
            Standing::Revoked
        } else if state.expires_at.is_some_and(|end| end <= now) {
            Standing::Expired
        } else if state.caller.spoke.as_ref().is_some_and(|spoke| spoke.suspended) {
            Standing::Suspended
        } else {
            Standing::Good
        }
    }

    /// Whether its time is over.
    pub(crate) fn expired(&self, now: Timestamp) -> bool {
        self.state.load().expires_at.is_some_and(|end| end <= now)
    }

    pub(super) fn update(&self, record: &KeyRecord) {
        self.state.store(Arc::new(State::of(record)));
        *self.looked_up.lock() = Some(Instant::now());
    }

    /// Ends it here, whatever Postgres says later.
    pub(super) fn revoke(&self) {
        let old = self.state.load();
        self.state.store(Arc::new(State {
            caller: old.caller.clone(),
            expires_at: old.expires_at,
            revoked: true,
        }));
        *self.looked_up.lock() = Some(Instant::now());
    }

    /// Time since it was looked up; without end when it has to be looked up again.
    pub(super) fn age(&self) -> Duration {
        self.looked_up
            .lock()
            .map_or(Duration::MAX, |then| Instant::now().saturating_duration_since(then))
    }

    /// Makes it due for a look-up when it is next used.
    pub(super) fn is_stale(&self) {
        *self.looked_up.lock() = None;
    }

    /// Makes it due for a look-up after `pause`, where `ttl` makes it due.
    pub(super) fn refresh_in(&self, ttl: Duration, pause: Duration) {
        *self.looked_up.lock() = Instant::now().checked_sub(ttl.saturating_sub(pause));
    }

    pub(super) fn begin_refresh(&self) -> Option<Turn<'_>> {
        let free = !self.refreshing.swap(true, Ordering::AcqRel);
        free.then(|| Turn(&self.refreshing))
    }

    pub(super) fn used(&self, now: Timestamp) {
        *self.last_used.lock() = Some(now);
    }

    /// When it was last used, once for each time it was.
    pub(super) fn take_last_used(&self) -> Option<Timestamp> {
        self.last_used.lock().take()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

// === impl State ===

impl State {
    fn of(record: &KeyRecord) -> Self {
        let spoke = record.spoke.as_ref().map(|spoke| {
            Arc::new(SpokePolicy {
                name: spoke.name.clone(),
                operations: spoke.operations.clone(),
                concurrency: spoke.concurrency,
                suspended: spoke.suspended,
                uid: spoke.uid.clone(),
            })
        });
        Self {
            caller: Arc::new(Caller {
                key_id: record.id.as_str().into(),
                scopes: Arc::new(scopes(record)),
                spoke,
            }),
            expires_at: record.expires_at,
            revoked: record.revoked_at.is_some(),
        }
    }
}

/// A spoke's key may do what its spoke may, and offer.
fn scopes(record: &KeyRecord) -> Scopes {
    match &record.spoke {
        Some(spoke) => Scopes::new(record.scopes.iter().chain(spoke.scopes.iter()).chain([scope::SPOKE])),
        None => record.scopes.clone(),
    }
}
