//! A receiver that is given out only once.

use parking_lot::Mutex;
use tokio::sync::mpsc;

/// The receiver, until somebody takes it.
#[derive(Debug)]
pub(crate) struct Once<T>(Mutex<Option<mpsc::Receiver<T>>>);

// === impl Once ===

impl<T> Once<T> {
    pub(crate) fn new(receiver: mpsc::Receiver<T>) -> Self {
        Self(Mutex::new(Some(receiver)))
    }

    /// The receiver; anybody who asks later gets a closed one.
    pub(crate) fn take(&self) -> mpsc::Receiver<T> {
        self.0.lock().take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}
