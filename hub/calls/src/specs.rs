//! Moves specifications between memory and the store, beside the calls.
//!
//! A registering hub saves what it compiled; the others load by hash what the directory names. Both keep trying.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::{OperationSpec, SpokeName};
use alkhub_store::SpecHash;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::Core;
use crate::operation::Operation;

/// How long a registration waits for its specifications to be saved.
const SAVE_WAIT: Duration = Duration::from_secs(1);

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Hashes that are known to be saved, at most.
const SAVED: usize = 20_000;

/// A specification is saved again after this long: nobody may have offered it since, and then it is forgotten.
const SAVED_FOR: Duration = Duration::from_secs(3600);

/// Bytes that are stored of one spoke's specifications for each byte that its offered ones may take compiled
/// (`calls.spec-bytes-per-spoke`): a text is smaller than what it compiles to, so that this holds older releases too.
const STORED_FOR_COMPILED: u64 = 2;

/// Specifications loaded or saved by one statement.
const BATCH: usize = 500;

/// What is to be saved, and what wakes the loader.
#[derive(Debug, Default)]
pub(crate) struct SpecStore {
    unsaved: Mutex<HashMap<SpecHash, Arc<Operation>>>,
    saved: Mutex<HashMap<SpecHash, Instant>>,
    save: Notify,
    saved_all: Notify,
    load: Notify,
}

// === impl SpecStore ===

impl SpecStore {
    /// Makes the loader look for missing specifications.
    pub(crate) fn look(&self) {
        self.load.notify_one();
    }

    /// Queues what is not known to be saved; false when there is nothing.
    fn queue(&self, operations: &[Arc<Operation>]) -> bool {
        let saved = self.saved.lock();
        let is_saved = |hash| saved.get(hash).is_some_and(|at: &Instant| at.elapsed() < SAVED_FOR);
        let new = operations.iter().filter(|operation| !is_saved(&operation.hash));
        let new: Vec<_> = new.map(|operation| (operation.hash, Arc::clone(operation))).collect();
        drop(saved);
        let any = !new.is_empty();
        self.unsaved.lock().extend(new);
        any
    }

    fn note_saved(&self, hashes: impl Iterator<Item = SpecHash>) {
        let mut saved = self.saved.lock();
        if saved.len() >= SAVED {
            saved.clear(); // Saving again changes nothing.
        }
        let now = Instant::now();
        saved.extend(hashes.map(|hash| (hash, now)));
    }
}

impl Core {
    /// Saves specifications; returns when they are saved, after a second, or at once while Postgres is away: it goes
    /// on beside then.
    pub(crate) async fn save(&self, operations: &[Arc<Operation>]) {
        if !self.spec_store.queue(operations) {
            return;
        }
        let saved = self.spec_store.saved_all.notified();
        self.spec_store.save.notify_one();
        if !self.store.ready() {
            return;
        }
        if tokio::time::timeout(SAVE_WAIT, saved).await.is_err() {
            tracing::warn!("specifications could not be saved yet: other hubs cannot call the operations until then");
        }
    }

    /// Saves what is queued until the end.
    pub(crate) async fn save_specs(self: Arc<Self>) {
        let mut retry = FIRST_RETRY;
        loop {
            let waits = self.spec_store.save.notified();
            if self.stop.run_until_cancelled(waits).await.is_none() {
                return;
            }
            while !self.save_batch().await {
                if self
                    .stop
                    .run_until_cancelled(tokio::time::sleep(jittered(retry)))
                    .await
                    .is_none()
                {
                    return;
                }
                retry = (retry * 2).min(LAST_RETRY);
            }
            retry = FIRST_RETRY;
            self.spec_store.saved_all.notify_waiters();
        }
    }

    /// Saves one batch after the other; true when nothing is left.
    async fn save_batch(&self) -> bool {
        loop {
            let batch: Vec<(SpecHash, OperationSpec)> = {
                let unsaved = self.spec_store.unsaved.lock();
                unsaved.values().take(BATCH).map(|o| (o.hash, o.spec.clone())).collect()
            };
            if batch.is_empty() {
                return true;
            }
            if let Err(error) = self.keep_batch(&batch).await {
                if error.is_transient() {
                    return false;
                }
                tracing::error!(%error, "specifications cannot be saved: other hubs cannot call the operations");
            }
            let mut unsaved = self.spec_store.unsaved.lock();
            for (hash, _) in &batch {
                unsaved.remove(hash);
            }
            drop(unsaved);
            self.spec_store.note_saved(batch.iter().map(|(hash, _)| *hash));
        }
    }

    /// Writes specifications, and forgets what their spokes offered long ago beyond what may be kept of each.
    async fn keep_batch(&self, batch: &[(SpecHash, OperationSpec)]) -> Result<(), alkhub_store::Error> {
        let operations = self.store.operations();
        operations.put(batch).await?;
        let owner = |(hash, _): &(SpecHash, OperationSpec)| Some((*hash, self.specs.owner(hash)?));
        let owned: Vec<_> = batch.iter().filter_map(owner).collect();
        let limit = STORED_FOR_COMPILED * self.config.spec_bytes_per_spoke as u64;
        operations.charge(&owned, limit).await
    }

    /// Loads what the directory names and this hub does not have, until the end.
    pub(crate) async fn load_specs(self: Arc<Self>) {
        let mut retry = FIRST_RETRY;
        loop {
            let missing = self.directory.missing();
            self.metrics
                .specs
                .missing
                .set(i64::try_from(missing.len()).unwrap_or(i64::MAX));
            for batch in missing.chunks(BATCH) {
                self.load_batch(batch).await;
            }
            let left = if missing.is_empty() {
                0
            } else {
                self.directory.missing().len()
            };
            self.metrics.specs.missing.set(i64::try_from(left).unwrap_or(i64::MAX));
            let pause = if left == 0 { None } else { Some(jittered(retry)) };
            retry = if left == 0 {
                FIRST_RETRY
            } else {
                (retry * 2).min(LAST_RETRY)
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.spec_store.load.notified() => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    async fn load_batch(&self, missing: &[(SpecHash, SpokeName)]) {
        let owners: HashMap<SpecHash, &SpokeName> = missing.iter().map(|(hash, spoke)| (*hash, spoke)).collect();
        let hashes: Vec<SpecHash> = owners.keys().copied().collect();
        let loaded = match self.store.operations().get(&hashes).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::debug!(%error, "specifications of other hubs' operations could not be loaded");
                return;
            }
        };
        for (hash, spec) in loaded {
            let Some(spoke) = owners.get(&hash) else { continue };
            match self.specs.compile(spoke, spec).await {
                Ok(operation) => self.directory.resolved(&operation.name, &hash),
                Err(error) => {
                    tracing::warn!(
                        spoke.name = %spoke, %error,
                        "the specification of another hub's operation cannot be used here"
                    );
                    self.directory.give_up(&hash);
                }
            }
        }
    }
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
