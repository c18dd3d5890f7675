//! One key in memory, shared by its requests and its sockets so that a change reaches all of them.

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
pub struct Key {
    /// Its id, in logs and call records.
    pub id: Arc<str>,
    pub(crate) hash: KeyHash,
    pub(crate) bucket: Bucket,
    pub(crate) messages: Bucket,
    /// Its open connections: WebSockets, and streams of server-sent events.
    pub(crate) connections: Slots,
    /// Its sessions that wait for their peers.
    pub(crate) waiting: Slots,
    /// What is left of sessions that have moved to other hubs.
    pub(crate) left: Slots,
    state: ArcSwap<State>,
    looked_up: Mutex<LookedUp>,
    refreshing: AtomicBool,
    last_used: Mutex<Option<Timestamp>>,
}

#[derive(Debug)]
struct State {
    caller: Arc<Caller>,
    expires_at: Option<Timestamp>,
    revoked: bool,
}

/// When it was last looked up. News of keys are numbered by the ring; a look-up knows everything that had arrived when
/// it began.
#[derive(Debug)]
struct LookedUp {
    /// `None`: it has to be looked up again.
    at: Option<Instant>,
    /// The number of the last news when that look-up began.
    as_of: u64,
    /// The number of the news that asked for a look-up: one that began before leaves the key due.
    due: u64,
}

/// Why a key is no longer good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// Somebody ended it.
    Revoked,
    /// It has expired.
    Expired,
    /// Its spoke is suspended.
    Suspended,
}

/// What has happened to a key since its rights were last looked at.
#[derive(Debug)]
pub(crate) enum Review {
    /// Nothing.
    Same,
    /// It allows something else.
    Changed(Arc<Caller>),
    /// It is no longer good.
    Fault(KeyFault),
}

/// The right to refresh a key; one task has it at a time.
#[derive(Debug)]
pub(crate) struct RefreshGuard<'a>(&'a AtomicBool);

// === impl Key ===

impl Key {
    /// A key that was looked up when `as_of` was the last news.
    pub(crate) fn new(hash: KeyHash, record: &KeyRecord, as_of: u64) -> Self {
        let looked_up = LookedUp {
            at: Some(Instant::now()),
            as_of,
            due: 0,
        };
        Self {
            id: record.id.as_str().into(),
            hash,
            bucket: Bucket::default(),
            messages: Bucket::default(),
            connections: Slots::default(),
            waiting: Slots::default(),
            left: Slots::default(),
            state: ArcSwap::from_pointee(State::of(record)),
            looked_up: Mutex::new(looked_up),
            refreshing: AtomicBool::new(false),
            last_used: Mutex::new(None),
        }
    }

    /// Who holds it.
    pub fn caller(&self) -> Arc<Caller> {
        self.state.load().caller.clone()
    }

    /// Why it is no longer good; `None` while it is.
    pub fn fault(&self, now: Timestamp) -> Option<KeyFault> {
        self.state.load().fault(now)
    }

    /// What has happened to it since its rights were `before`.
    pub(crate) fn review(&self, now: Timestamp, before: &Arc<Caller>) -> Review {
        let state = self.state.load();
        match state.fault(now) {
            Some(fault) => Review::Fault(fault),
            None if Arc::ptr_eq(&state.caller, before) => Review::Same,
            None => Review::Changed(state.caller.clone()),
        }
    }

    /// Applies the result of a look-up that began when `as_of` was the last news, unless `revoked` says otherwise: a
    /// revocation that arrives meanwhile is not undone. A look-up older than the last one changes nothing.
    pub(crate) fn update(&self, record: &KeyRecord, as_of: u64, revoked: impl FnOnce() -> bool) {
        let mut looked_up = self.looked_up.lock();
        if as_of < looked_up.as_of {
            return;
        }
        let mut state = State::of(record);
        state.revoked |= revoked();
        let old = self.state.load();
        if old.caller == state.caller {
            // Keeping the same object shows everybody that nothing has changed.
            state.caller = old.caller.clone();
        }
        self.state.store(Arc::new(state));
        looked_up.as_of = as_of;
        looked_up.at = (as_of >= looked_up.due).then(Instant::now);
    }

    /// Ends the key here: a look-up that began when `as_of` was the last news did not find it. `false`: a later look-up
    /// did.
    pub(crate) fn lost(&self, as_of: u64) -> bool {
        let mut looked_up = self.looked_up.lock();
        let is_last = as_of >= looked_up.as_of;
        if is_last {
            self.end();
            looked_up.as_of = as_of;
            looked_up.at = Some(Instant::now());
        }
        is_last
    }

    /// Ends the key here by the `news` of a revocation, whatever look-ups under way find; a look-up that begins later
    /// knows of it. The next use looks the key up: it may have come back with its spoke by then.
    pub(crate) fn revoke_by(&self, news: u64) {
        let mut looked_up = self.looked_up.lock();
        if looked_up.as_of < news && !self.state.load().revoked {
            self.end();
            looked_up.at = None;
        }
    }

    fn end(&self) {
        let old = self.state.load();
        self.state.store(Arc::new(State {
            caller: old.caller.clone(),
            expires_at: old.expires_at,
            revoked: true,
        }));
    }

    /// Time since it was last looked up; unlimited if it has to be looked up again.
    pub(crate) fn age(&self) -> Duration {
        let looked_up = self.looked_up.lock().at;
        looked_up.map_or(Duration::MAX, |then| Instant::now().saturating_duration_since(then))
    }

    /// Makes it due for a look-up at its next use, because `news` says that it may have changed. A look-up that is
    /// under way began too early to count.
    pub(crate) fn invalidate(&self, news: u64) {
        let mut looked_up = self.looked_up.lock();
        looked_up.at = None;
        looked_up.due = looked_up.due.max(news);
    }

    /// Makes it due for a look-up after `pause`, given that `ttl` makes it due.
    pub(crate) fn refresh_in(&self, ttl: Duration, pause: Duration) {
        self.looked_up.lock().at = Instant::now().checked_sub(ttl.saturating_sub(pause));
    }

    pub(crate) fn begin_refresh(&self) -> Option<RefreshGuard<'_>> {
        let free = !self.refreshing.swap(true, Ordering::AcqRel);
        free.then(|| RefreshGuard(&self.refreshing))
    }

    pub(crate) fn used(&self, now: Timestamp) {
        *self.last_used.lock() = Some(now);
    }

    /// Restores a use that could not be written, unless there was another one meanwhile.
    pub(crate) fn used_before(&self, then: Timestamp) {
        self.last_used.lock().get_or_insert(then);
    }

    /// When it was last used; returns each use once.
    pub(crate) fn take_last_used(&self) -> Option<Timestamp> {
        self.last_used.lock().take()
    }
}

// === impl KeyFault ===

impl KeyFault {
    /// The error for whoever uses the key.
    pub fn error(self) -> CallError {
        let code = match self {
            Self::Revoked | Self::Expired => Code::Unauthenticated,
            Self::Suspended => Code::AccessDenied,
        };
        CallError::new(code, self.reason())
    }

    /// In a sentence.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Revoked => "the key was revoked",
            Self::Expired => "the key has expired",
            Self::Suspended => "the key's spoke is suspended",
        }
    }
}

// === impl RefreshGuard ===

impl Drop for RefreshGuard<'_> {
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

    fn fault(&self, now: Timestamp) -> Option<KeyFault> {
        if self.revoked {
            Some(KeyFault::Revoked)
        } else if self.expires_at.is_some_and(|end| end <= now) {
            Some(KeyFault::Expired)
        } else if self.caller.spoke.as_ref().is_some_and(|spoke| spoke.suspended) {
            Some(KeyFault::Suspended)
        } else {
            None
        }
    }
}

/// A spoke's key may do what its spoke may do, and offer operations.
fn scopes(record: &KeyRecord) -> Scopes {
    match &record.spoke {
        Some(spoke) => Scopes::new(record.scopes.iter().chain(spoke.scopes.iter()).chain([scope::SPOKE])),
        None => record.scopes.clone(),
    }
}

/// A key's record, for tests.
#[cfg(test)]
pub(crate) fn record() -> KeyRecord {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_is_not_undone_by_a_look_up_that_began_before_it() {
        let key = Key::new(KeyHash([0; 32]), &record(), 0);
        let found = record();
        key.revoke_by(1);

        key.update(&found, 0, || true);
        assert_eq!(key.fault(Timestamp::now()), Some(KeyFault::Revoked));

        key.update(&found, 1, || false);
        assert_eq!(key.fault(Timestamp::now()), None);
    }

    #[test]
    fn a_look_up_that_began_after_a_revocation_knows_whether_the_key_came_back() {
        let key = Key::new(KeyHash([0; 32]), &record(), 0);
        key.revoke_by(1);
        assert_eq!(key.age(), Duration::MAX, "the next use looks it up");
        key.update(&record(), 1, || false);

        key.revoke_by(1);

        assert_eq!(key.fault(Timestamp::now()), None);
        assert!(key.age() < Duration::MAX);
    }

    #[test]
    fn a_look_up_that_began_before_a_key_changed_leaves_it_due_and_undoes_no_later_one() {
        let key = Key::new(KeyHash([0; 32]), &record(), 0);
        let gone = KeyRecord {
            revoked_at: Some(Timestamp::now()),
            ..record()
        };
        key.invalidate(1);

        key.update(&gone, 0, || false);
        assert_eq!(key.age(), Duration::MAX);
        key.update(&record(), 1, || false);
        key.update(&gone, 0, || false);

        assert_eq!(key.fault(Timestamp::now()), None);
        assert!(key.age() < Duration::MAX);
    }
}
