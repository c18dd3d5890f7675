//! One key in memory, shared by its requests and its sockets, so that a change reaches them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alkhub_calls::{Caller, SpokePolicy};
use alkhub_protocol::{CallError, Code, Scopes, scope};
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
    pub(super) messages: Bucket,
    /// Its open connections: WebSockets, and streams of server-sent events.
    pub(crate) connections: Slots,
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
            messages: Bucket::default(),
            connections: Slots::default(),
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

    /// Takes over what was looked up, unless `revoked` knows better: a revocation that comes meanwhile is not undone.
    pub(super) fn update(&self, record: &KeyRecord, revoked: impl FnOnce() -> bool) {
        let mut looked_up = self.looked_up.lock();
        let mut state = State::of(record);
        state.revoked |= revoked();
        let old = self.state.load();
        if old.caller == state.caller {
            // The same one says to everybody that nothing has changed.
            state.caller = old.caller.clone();
        }
        self.state.store(Arc::new(state));
        *looked_up = Some(Instant::now());
    }

    /// Ends it here, whatever is looked up at this time.
    pub(super) fn revoke(&self) {
        let mut looked_up = self.looked_up.lock();
        let old = self.state.load();
        self.state.store(Arc::new(State {
            caller: old.caller.clone(),
            expires_at: old.expires_at,
            revoked: true,
        }));
        *looked_up = Some(Instant::now());
    }

    /// Time since it was looked up; without end when it has to be looked up again.
    pub(super) fn age(&self) -> Duration {
        self.looked_up
            .lock()
            .map_or(Duration::MAX, |then| Instant::now().saturating_duration_since(then))
    }

    /// Makes it due for a look-up when it is next used.
    pub(super) fn doubt(&self) {
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

// === impl Standing ===

impl Standing {
    /// Why its holder is refused; `None` while it is good.
    pub(crate) fn refusal(self) -> Option<CallError> {
        let (code, message) = match self {
            Self::Good => return None,
            Self::Revoked => (Code::Unauthenticated, "the key was revoked"),
            Self::Expired => (Code::Unauthenticated, "the key has expired"),
            Self::Suspended => (Code::AccessDenied, "the key's spoke is suspended"),
        };
        Some(CallError::new(code, message))
    }
}

// === impl Turn ===

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

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> KeyRecord {
        KeyRecord {
            id: "k".to_owned(),
            name: "test".to_owned(),
            hint: "alk_000000".to_owned(),
            scopes: Scopes::default(),
            spoke: None,
            created_at: Timestamp::now(),
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
        }
    }

    #[test]
    fn a_revocation_is_not_undone_by_a_look_up_that_began_before_it() {
        let key = Key::new(KeyHash([0; 32]), &record());
        let found = record();
        key.revoke();

        key.update(&found, || true);
        assert_eq!(key.standing(Timestamp::now()), Standing::Revoked);

        key.update(&found, || false);
        assert_eq!(key.standing(Timestamp::now()), Standing::Good);
    }

    #[tokio::test]
    async fn a_stream_is_told_once_why_it_ends() {
        let streams = Arc::new(crate::streams::Streams::default());
        let metrics = crate::metrics::Metrics::new(&prometheus::Registry::new()).expect("new names");
        let key = Arc::new(Key::new(KeyHash([0; 32]), &record()));
        let slot = key.connections.take(1).expect("free");
        let open = metrics.open(crate::metrics::ConnectionKind::Sse);
        let mut held = streams.enter(key.clone(), (slot, open));
        streams.end_bad();

        key.revoke();
        streams.end_bad();
        streams.end_bad();

        assert_eq!(held.ended().await.message, "the key was revoked");
        drop(held);
        assert!(streams.keys().is_empty());
        assert!(key.connections.take(1).is_some());
    }
}
