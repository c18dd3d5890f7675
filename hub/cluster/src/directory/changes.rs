//! The changes of the directory on their way to their reader.
//!
//! Invariants
//! - What waits is bounded in changes and in bytes ([`BYTES`], and two snapshots). Nobody waits for the reader: what
//!   does not fit is refused, and a snapshot replaces it.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::entry::DirectoryChange;

/// How many changes may wait for their reader; beyond that, the reader gets a snapshot.
pub(super) const CHANGES: usize = 4_096;

/// Roughly how many bytes they may have: 8 KiB each, which is an instance with a hundred operations.
const BYTES: u32 = 32 * 1024 * 1024;

/// How many bytes must be free before a snapshot is made. A snapshot counts as no more than that: however large they
/// are, at most two of them wait.
const HALF: u32 = BYTES / 2;

/// Where changes are put.
#[derive(Debug)]
pub(super) struct ChangeSender {
    changes: mpsc::Sender<Weighed>,
    free: Arc<Semaphore>,
}

/// The changes of the directory, for their reader.
#[derive(Debug)]
pub struct DirectoryChanges(mpsc::Receiver<Weighed>);

/// A change and its weight in bytes, which is released when the change is read.
#[derive(Debug)]
pub(crate) struct Weighed {
    change: DirectoryChange,
    _bytes: OwnedSemaphorePermit,
}

/// The reader has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// Creates the two ends; at most `bound` changes wait.
pub(super) fn channel(bound: usize) -> (ChangeSender, mpsc::Receiver<Weighed>) {
    let (changes, reader) = mpsc::channel(bound);
    let free = Arc::new(Semaphore::new(BYTES as usize));
    (ChangeSender { changes, free }, reader)
}

// === impl ChangeSender ===

impl ChangeSender {
    /// Queues a change; if the reader is gone, the change is dropped. Never waits.
    pub(super) fn try_send(&self, change: DirectoryChange) -> Result<(), NoRoom> {
        let most = if matches!(change, DirectoryChange::Snapshot(_)) {
            HALF
        } else {
            BYTES
        };
        let bytes = u32::try_from(change.weight()).map_or(most, |bytes| bytes.min(most));
        let free = Arc::clone(&self.free).try_acquire_many_owned(bytes);
        let _bytes = free.map_err(|_| NoRoom)?;
        match self.changes.try_send(Weighed { change, _bytes }) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(NoRoom),
        }
    }

    /// Waits until the reader has room for a snapshot; for ever if it is gone.
    pub(super) async fn room(&self) {
        let has_place = self.changes.reserve().await.is_ok();
        let has_bytes = self.free.acquire_many(HALF).await.is_ok();
        if !(has_place && has_bytes) {
            std::future::pending().await
        }
    }
}

// === impl DirectoryChanges ===

impl DirectoryChanges {
    pub(crate) fn new(changes: mpsc::Receiver<Weighed>) -> Self {
        Self(changes)
    }

    /// The next change; `None` when the hub has ended, or if somebody else has the changes. Dropping the future loses
    /// nothing.
    pub async fn recv(&mut self) -> Option<DirectoryChange> {
        self.0.recv().await.map(|weighed| weighed.change)
    }

    /// The next change, if one waits.
    #[cfg(test)]
    pub(super) fn try_recv(&mut self) -> Option<DirectoryChange> {
        self.0.try_recv().ok().map(|weighed| weighed.change)
    }
}
