//! An instance's presence on this hub: who it is, what runs on it, and how messages get to it.
//!
//! A session is not a socket. It has an [`Outbox`], into which anybody with a message for the peer pushes it, and a
//! socket serves it: the surface lends the outbox's reading end to one connection at a time.
//!
//! Invariants
//! - A session is one instance of one spoke for as long as it lives.
//! - Only the end of the session seals its outbox; nothing that a connection does seals it.

mod load;
pub(crate) mod message;
pub(crate) mod moves;
pub(crate) mod outbox;
pub(crate) mod presence;
mod registration;
pub(crate) mod sessions;
pub(crate) mod spoken;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use alkhub_budget::Held;
use alkhub_protocol::{InstanceId, SpokeName};
use alkhub_queue::Limits;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::session::outbox::Outbox;
pub(crate) use load::Load;
pub use load::OccupiedSlots;
pub use registration::Registration;
pub(crate) use registration::RegistrationContext;

/// How many answers to calls that other hubs had sent one session may bring: about what the SDK keeps of a session that
/// is lost.
const BROUGHT: Limits = Limits {
    items: 4_096,
    bytes: 8 * 1024 * 1024,
};

/// The time after which it may bring as many again.
const BROUGHT_WINDOW: Duration = Duration::from_secs(60);

/// What a session has brought within one window.
#[derive(Debug, Default)]
struct Brought {
    since: Option<Instant>,
    items: usize,
    bytes: usize,
    /// Whether the log already says that it was too much.
    is_told: bool,
}

/// An instance that has registered, or is about to.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) spoke: SpokeName,
    pub(crate) instance: InstanceId,
    /// Where calls to the spoke are put.
    pub(crate) outbox: Outbox,
    pub(crate) load: Arc<Load>,
    /// The generation of its last registration; earlier ones have no further effect.
    generation: AtomicU64,
    /// Whether the spoke has sent anything since the last batch of heartbeats.
    heard: AtomicBool,
    /// Set before the directory forgets the session, which takes a moment: from then on nobody chooses it.
    ended: AtomicBool,
    /// The keys of its running calls; `None` once it has ended.
    calls: Mutex<Option<HashSet<u64>>>,
    /// Whether its connection is lost, as the other hubs were told.
    is_reconnecting: Arc<AtomicBool>,
    /// The generation of the record for which that was last told: each new record begins as a connected one.
    told: AtomicU64,
    /// The answers it has brought to calls that another hub had sent.
    brought: Mutex<Brought>,
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
            is_reconnecting: Arc::default(),
            told: AtomicU64::new(0),
            brought: Mutex::default(),
            held: Mutex::new(None),
        }
    }

    /// Its id, unique on this hub.
    pub(crate) fn id(&self) -> &Arc<str> {
        self.outbox.session()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Keeps the charge of its registration, in place of the previous one.
    pub(crate) fn hold(&self, held: Held) {
        let before = self.held.lock().replace(held);
        drop(before);
    }

    /// Whether calls may be sent to it.
    pub(crate) fn is_open(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && !self.outbox.is_closed()
    }

    /// Notes a call; false if the session has ended.
    pub(crate) fn add(&self, key: u64) -> bool {
        self.calls.lock().as_mut().is_some_and(|calls| {
            if calls.insert(key) {
                self.outbox.call_runs();
            }
            true
        })
    }

    pub(crate) fn remove(&self, key: u64) {
        if let Some(calls) = self.calls.lock().as_mut()
            && calls.remove(&key)
        {
            self.outbox.calls_done(1);
        }
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        self.calls.lock().iter().flatten().copied().collect()
    }

    /// Notes whether its connection is lost, unless it has ended. If that is news about its record of this generation,
    /// returns what the other hubs are to be told.
    pub(crate) fn set_reconnecting(&self, is_reconnecting: bool, generation: u64) -> Option<Arc<AtomicBool>> {
        let calls = self.calls.lock();
        calls.as_ref()?;
        let was_reconnecting = self.is_reconnecting.swap(is_reconnecting, Ordering::AcqRel);
        let is_other_record = self.told.swap(generation, Ordering::AcqRel) != generation;
        let is_news = was_reconnecting != is_reconnecting || is_reconnecting && is_other_record;
        is_news.then(|| Arc::clone(&self.is_reconnecting))
    }

    /// Whether its connection was lost when it ended.
    pub(crate) fn was_reconnecting(&self) -> bool {
        self.is_reconnecting.load(Ordering::Acquire)
    }

    /// Counts an answer to a call that another hub had sent; false if it has already brought as many as one
    /// [`BROUGHT_WINDOW`] allows.
    pub(crate) fn hands_on(&self, bytes: usize) -> bool {
        let mut brought = self.brought.lock();
        if brought.since.is_none_or(|since| since.elapsed() >= BROUGHT_WINDOW) {
            *brought = Brought {
                since: Some(Instant::now()),
                ..Brought::default()
            };
        }
        let (items, total) = (brought.items + 1, brought.bytes + bytes);
        let has_room = items <= BROUGHT.items && total <= BROUGHT.bytes;
        if has_room {
            (brought.items, brought.bytes) = (items, total);
        } else if !std::mem::replace(&mut brought.is_told, true) {
            tracing::warn!(
                spoke.id = %self.spoke, instance.id = %self.instance,
                "a spoke brings too many answers to calls of other hubs: those over the limit are dropped"
            );
        }
        has_room
    }

    /// Whether it has not ended.
    pub(crate) fn is_registered(&self) -> bool {
        self.calls.lock().is_some()
    }

    /// Ends the session and takes its calls; `None` if it had already ended.
    pub(crate) fn end(&self) -> Option<HashSet<u64>> {
        self.ended.store(true, Ordering::Release);
        drop(self.held.lock().take());
        let calls = self.calls.lock().take();
        self.outbox.calls_done(calls.as_ref().map_or(0, HashSet::len));
        calls
    }

    pub(crate) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Whether the spoke has sent anything since this was last asked.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::local;

    #[tokio::test(start_paused = true)]
    async fn what_a_session_brings_of_calls_of_other_hubs_is_bounded_in_number_and_bytes_for_a_while() {
        let session = |name: &str| local(name, &[]).0.session.clone().expect("it is here");
        let (many, large) = (session("a/many@1"), session("a/large@2"));

        assert!((0..BROUGHT.items).all(|_| many.hands_on(1)));
        assert!(large.hands_on(BROUGHT.bytes - 1));

        assert!(!many.hands_on(1));
        assert!(!large.hands_on(2) && large.hands_on(1));
        tokio::time::advance(BROUGHT_WINDOW - Duration::from_millis(1)).await;
        assert!(!many.hands_on(1), "not yet");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(many.hands_on(1) && large.hands_on(BROUGHT.bytes));
    }
}
