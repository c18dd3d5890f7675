//! Every open stream of server-sent events, so that a key that ends takes its streams with it.
//!
//! Invariants
//! - A stream is entered before its key is looked at for the last time: a key that ends in between ends the stream.
//! - A stream's entry, and its place among the connections of its key, leave with its [`Held`].

use std::fmt;
use std::sync::Arc;

use alkhub_calls::Caller;
use alkhub_protocol::CallError;
use jiff::Timestamp;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::oneshot;

use crate::auth::Key;
use crate::limits::Slot;
use crate::metrics::Open;

/// All open streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Mutex<Slab<Entry>>,
}

/// One open stream, as others see it.
#[derive(Debug)]
struct Entry {
    key: Arc<Key>,
    /// Taken when the stream is told to end.
    end: Option<oneshot::Sender<CallError>>,
    /// What the key allowed when the stream was last looked at.
    allowed: Arc<Caller>,
    check: Option<Check>,
}

/// Looks at a stream whose key allows something else now; why it must end, unless it ends by itself.
struct Check(Box<Look>);

type Look = dyn Fn(&Caller) -> Option<CallError> + Send;

/// A stream's place among the open ones.
#[derive(Debug)]
pub(crate) struct Held {
    streams: Arc<Streams>,
    place: usize,
    ended: oneshot::Receiver<CallError>,
    _counted: (Slot, Open),
}

// === impl Streams ===

impl Streams {
    /// Enters a stream; `counted` is kept for as long as it is open.
    pub(crate) fn enter(self: &Arc<Self>, key: Arc<Key>, counted: (Slot, Open)) -> Held {
        let (end, ended) = oneshot::channel();
        let place = self.open.lock().insert(Entry {
            allowed: key.caller(),
            key,
            end: Some(end),
            check: None,
        });
        Held {
            streams: self.clone(),
            place,
            ended,
            _counted: counted,
        }
    }

    /// The keys of the open streams; one with many of them as often.
    pub(crate) fn keys(&self) -> Vec<Arc<Key>> {
        self.open.lock().iter().map(|(_, entry)| entry.key.clone()).collect()
    }

    /// Ends the streams whose keys are no longer good, or do not allow them any more.
    pub(crate) fn end_bad(&self) {
        let now = Timestamp::now();
        for (_, entry) in &mut *self.open.lock() {
            let refusal = entry.key.standing(now).refusal().or_else(|| entry.look_again());
            if let Some(refusal) = refusal
                && let Some(end) = entry.end.take()
            {
                // Nobody is there who could be told only when the stream ends at this moment by itself.
                drop(end.send(refusal));
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Looks whether the key still allows the stream, when it allows something else than before.
    fn look_again(&mut self) -> Option<CallError> {
        // Without one the stream is being opened, and is looked at later.
        let Check(check) = self.check.as_ref()?;
        let caller = self.key.caller();
        if Arc::ptr_eq(&caller, &self.allowed) {
            return None;
        }
        self.allowed = caller;
        check(&self.allowed)
    }
}

// === impl Check ===

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Check")
    }
}

// === impl Held ===

impl Held {
    /// Has `check` look at the stream whenever its key allows something else, from its opening on.
    pub(crate) fn watch(&self, check: impl Fn(&Caller) -> Option<CallError> + Send + 'static) {
        if let Some(entry) = self.streams.open.lock().get_mut(self.place) {
            entry.check = Some(Check(Box::new(check)));
        }
    }

    /// Resolves when the stream must end, with the reason. Dropping the future loses nothing.
    pub(crate) async fn ended(&mut self) -> CallError {
        match (&mut self.ended).await {
            Ok(reason) => reason,
            // The entry, and the sender in it, lives as long as this.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.streams.open.lock().try_remove(self.place);
    }
}
