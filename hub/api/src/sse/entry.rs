//! A stream among what is open: how it learns that its key has ended or lost rights, or that the hub drains.
//!
//! Invariants
//! - A stream gets the reason for its end once.
//! - What its key allows is checked from the moment when the stream knows what to check; earlier changes are taken into
//!   account then.

use std::fmt;
use std::sync::Arc;

use alkhub_calls::Caller;
use alkhub_edge::error::ApiError;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::open::{Closeable, Closing, Entered};
use alkhub_edge::{Edge, Key, KeyHolder};
use alkhub_protocol::CallError;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What a stream does when the hub begins to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDrain {
    /// It ends: its client comes back elsewhere and loses nothing that it asked for.
    End,
    /// It goes on until the hub closes what still runs: somebody is working for it.
    Finish,
}

/// Why a stream ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// Its key has ended, or no longer allows it.
    Refused(CallError),
    /// The hub is going away.
    Drain,
}

/// A stream's place among what is open.
#[derive(Debug)]
pub(crate) struct OpenStream {
    key: Arc<Key>,
    entry: Arc<Entry>,
    ended: oneshot::Receiver<Ending>,
    _entered: Entered,
}

/// A stream as others see it.
#[derive(Debug)]
struct Entry {
    on_drain: OnDrain,
    /// Taken when the stream is asked to end.
    end: Mutex<Option<oneshot::Sender<Ending>>>,
    check: Mutex<Option<Check>>,
}

/// Checks a stream whose key has other rights now; returns why it must end, unless it ends by itself.
struct Check(Box<Look>);

type Look = dyn Fn(&Caller) -> Option<CallError> + Send;

/// Enters a stream among what is open, before what it is to return is asked for.
///
/// # Errors
/// The key has as many connections as it may, or has just ended.
pub(crate) fn open(edge: &Edge, caller: &KeyHolder, on_drain: OnDrain) -> Result<OpenStream, ApiError> {
    let (keys, key) = (edge.keys(), &caller.key);
    let counted = (keys.take_connection(key)?, edge.metrics().open(ConnectionKind::Sse));
    let (end, ended) = oneshot::channel();
    let entry = Arc::new(Entry {
        on_drain,
        end: Mutex::new(Some(end)),
        check: Mutex::new(None),
    });
    let held = OpenStream {
        key: key.clone(),
        _entered: edge.open().enter(key.clone(), entry.clone(), counted),
        entry,
        ended,
    };
    match keys.look_again(key) {
        Some(fault) => Err(fault.error().into()),
        None => Ok(held),
    }
}

// === impl OpenStream ===

impl OpenStream {
    /// Has `check` look at the stream now, and whenever the rights of its key change.
    pub(super) fn watch(&self, check: impl Fn(&Caller) -> Option<CallError> + Send + 'static) {
        let check = Check(Box::new(check));
        let mut place = self.entry.check.lock();
        self.entry.look(place.insert(check), &self.key.caller());
    }

    /// Resolves when the stream must end, with the reason. Dropping the future loses nothing.
    pub(super) async fn ended(&mut self) -> Ending {
        match (&mut self.ended).await {
            Ok(ending) => ending,
            // It was asked before; otherwise the entry, which lives as long as this, would still have its sender.
            Err(_) => std::future::pending().await,
        }
    }
}

// === impl Entry ===

impl Entry {
    fn look(&self, Check(check): &Check, caller: &Caller) {
        if let Some(refusal) = check(caller) {
            self.end(Ending::Refused(refusal));
        }
    }

    fn end(&self, ending: Ending) {
        if let Some(end) = self.end.lock().take() {
            // Nobody listens only if the stream is ending by itself at this moment.
            drop(end.send(ending));
        }
    }
}

impl Closeable for Entry {
    fn recheck(&self, caller: &Arc<Caller>) {
        // Without a check, the stream is still being opened, and is checked then.
        if let Some(check) = &*self.check.lock() {
            self.look(check, caller);
        }
    }

    fn drain(&self) {
        if self.on_drain == OnDrain::End {
            self.end(Ending::Drain);
        }
    }

    fn close(&self, why: Closing) {
        self.end(match why {
            Closing::Key(fault) => Ending::Refused(fault.error()),
            Closing::Drain => Ending::Drain,
        });
    }

    fn kill(&self) {
        self.end(Ending::Drain);
    }
}

// === impl Check ===

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Check")
    }
}
