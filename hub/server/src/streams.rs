//! Every open stream of server-sent events, so that a key that ends takes its streams with it.
//!
//! Invariants
//! - A stream is entered before its key is looked at for the last time: a key that ends in between ends the stream.
//! - A stream's entry, and its place among the connections of its key, leave with its [`Held`].

use std::sync::Arc;

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
}

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
        let place = self.open.lock().insert(Entry { key, end: Some(end) });
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

    /// Ends the streams whose keys are no longer good.
    pub(crate) fn end_bad(&self) {
        let now = Timestamp::now();
        for (_, entry) in &mut *self.open.lock() {
            if let Some(refusal) = entry.key.standing(now).refusal()
                && let Some(end) = entry.end.take()
            {
                // Nobody is there who could be told only when the stream ends at this moment by itself.
                drop(end.send(refusal));
            }
        }
    }
}

// === impl Held ===

impl Held {
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
