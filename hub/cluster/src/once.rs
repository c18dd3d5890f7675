//! A receiver that is given out once.

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

    /// The receiver; one that is closed for whoever comes later.
    pub(crate) fn take(&self) -> mpsc::Receiver<T> {
        self.0.lock().take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}
