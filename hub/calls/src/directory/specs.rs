//! Moves specifications between memory and the store, apart from the calls.
//!
//! A registering hub saves what it compiled; the others load what the directory names, by hash. Both keep trying.
//!
//! Invariants
//! - Only what the store has written counts as saved.
//! - What instances of this hub offer is saved again whenever the store may have lost it: when the schema was made
//!   anew, by whichever hub; when Postgres is back, since it may be an older one; and each time the offers are noted
//!   ([`crate::directory::housekeeping`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_config::CallsConfig;
use alkhub_protocol::{OperationSpec, SpecHash, SpokeName};
use alkhub_retry::Backoff;
use alkhub_store::Store;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::directory::Directory;
use crate::directory::compiled::Specs;
use crate::directory::operation::Operation;
use crate::metrics::Metrics;

/// How long a registration waits for its specifications to be saved.
const SAVE_WAIT: Duration = Duration::from_secs(1);

/// The pauses between tries to save specifications, and to load missing ones.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// The most hashes that are remembered as saved.
const SAVED: usize = 20_000;

/// A specification is saved again after this time: if nobody has offered it since, the store may have forgotten it.
const SAVED_FOR: Duration = Duration::from_secs(3600);

/// How many bytes of one spoke's specifications are stored for each byte that its offered ones may take compiled
/// (`calls.spec-bytes-per-spoke`). A text is smaller than what it compiles to, so this has room for older releases too.
const STORED_FOR_COMPILED: u64 = 2;

/// How many specifications one statement loads or saves.
const BATCH: usize = 500;

/// How many bytes of their texts are loaded at once.
const LOADED_BYTES: usize = 4 * 1024 * 1024;

/// Stands in place of a key in the compiler's turns while specifications are loaded: no key has this id.
const LOADER: &str = "";

/// Saves and loads specifications.
#[derive(Debug)]
pub(crate) struct SpecKeeper {
    directory: Arc<Directory>,
    specs: Arc<Specs>,
    store: Store,
    metrics: Arc<Metrics>,
    /// The most bytes of one spoke's specifications that are stored.
    stored_bytes: u64,
    stop: CancellationToken,
    queue: Queue,
}

/// The specifications that are saved and those still to be saved, and what wakes the two loops.
#[derive(Debug, Default)]
struct Queue {
    unsaved: Mutex<HashMap<SpecHash, Arc<Operation>>>,
    saved: Mutex<HashMap<SpecHash, Instant>>,
    save: Notify,
    saved_all: Notify,
    /// The store may have lost what was saved.
    recheck: Notify,
    load: Notify,
}

// === impl Queue ===

impl Queue {
    /// Queues what is not known to be saved; false if there is nothing to queue.
    fn add(&self, operations: &[Arc<Operation>]) -> bool {
        let saved = self.saved.lock();
        let is_saved = |hash| saved.get(hash).is_some_and(|at: &Instant| at.elapsed() < SAVED_FOR);
        let new = operations.iter().filter(|operation| !is_saved(&operation.hash));
        let new: Vec<_> = new.map(|operation| (operation.hash, Arc::clone(operation))).collect();
        drop(saved);
        let any = !new.is_empty();
        self.unsaved.lock().extend(new);
        any
    }

    /// Waits until none of these is still to be saved.
    async fn saved(&self, operations: &[Arc<Operation>]) {
        loop {
            // A wake-up now may be for a batch that was saved before these were queued, so this looks again.
            let saved_all = self.saved_all.notified();
            let waits = {
                let unsaved = self.unsaved.lock();
                operations.iter().any(|operation| unsaved.contains_key(&operation.hash))
            };
            if !waits {
                return;
            }
            saved_all.await;
        }
    }

    /// Notes that a batch has been written, or refused for good.
    fn settle(&self, batch: &[(SpecHash, OperationSpec)], written: bool) {
        let mut unsaved = self.unsaved.lock();
        for (hash, _) in batch {
            unsaved.remove(hash);
        }
        drop(unsaved);
        if written {
            self.note_saved(batch.iter().map(|(hash, _)| *hash));
        }
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

// === impl SpecKeeper ===

impl SpecKeeper {
    pub(crate) fn new(
        directory: Arc<Directory>,
        specs: Arc<Specs>,
        store: Store,
        config: &CallsConfig,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            directory,
            specs,
            store,
            metrics,
            stored_bytes: STORED_FOR_COMPILED * config.spec_bytes_per_spoke as u64,
            stop,
            queue: Queue::default(),
        }
    }

    /// Wakes the loader, to look for missing specifications.
    pub(crate) fn look(&self) {
        self.queue.load.notify_one();
    }

    /// Wakes the saver, to check whether the store has what is offered here.
    pub(crate) fn recheck(&self) {
        self.queue.recheck.notify_one();
    }

    /// Saves specifications. Returns when they are saved, after a second, or at once while Postgres is away; in the
    /// last two cases saving goes on in the background.
    pub(crate) async fn save(&self, operations: &[Arc<Operation>]) {
        if !self.queue.add(operations) {
            return;
        }
        self.queue.save.notify_one();
        if !self.store.ready() {
            return;
        }
        if tokio::time::timeout(SAVE_WAIT, self.queue.saved(operations))
            .await
            .is_err()
        {
            tracing::warn!("specifications could not be saved yet: other hubs cannot call the operations until then");
        }
    }

    /// Saves what is queued, and what the store has lost, until the hub ends.
    pub(crate) async fn save_specs(self: Arc<Self>) {
        let (mut incarnation, mut link) = (self.store.incarnation(), self.store.link());
        let mut backoff = BACKOFF;
        let mut must_recheck = false;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.queue.save.notified() => {}
                () = self.queue.recheck.notified() => must_recheck = true,
                Ok(()) = incarnation.changed() => must_recheck = true,
                Ok(()) = link.changed() => must_recheck |= link.borrow_and_update().is_up(),
            }
            while !self.save_all(&mut must_recheck).await {
                if self
                    .stop
                    .run_until_cancelled(tokio::time::sleep(backoff.pause()))
                    .await
                    .is_none()
                {
                    return;
                }
            }
            backoff.reset();
            self.queue.saved_all.notify_waiters();
        }
    }

    /// Saves everything; first queues what is lost, if the store may have lost something. True if nothing is left.
    async fn save_all(&self, must_recheck: &mut bool) -> bool {
        if *must_recheck {
            match self.queue_lost().await {
                Err(error) if error.is_transient() => return false,
                Err(error) => tracing::error!(%error, "it is not known which specifications are saved"),
                Ok(()) => {}
            }
            *must_recheck = false;
        }
        self.save_batches().await
    }

    /// Queues what instances of this hub offer but the store does not have.
    async fn queue_lost(&self) -> Result<(), alkhub_store::Error> {
        // What is not offered now will be saved when it is offered again.
        self.queue.saved.lock().clear();
        let offered = self.offered_here();
        let lost: HashSet<SpecHash> = self.store.operations().lacks(&offered).await?.into_iter().collect();
        let (lost, kept): (Vec<SpecHash>, Vec<SpecHash>) = offered.into_iter().partition(|hash| lost.contains(hash));
        self.queue.note_saved(kept.into_iter());
        let lost: Vec<Arc<Operation>> = lost.iter().filter_map(|hash| self.specs.get(hash)).collect();
        if self.queue.add(&lost) {
            tracing::warn!(
                specifications = lost.len(),
                "the store has lost specifications: they are saved again"
            );
        }
        Ok(())
    }

    /// The specifications that instances of this hub offer, each once.
    pub(crate) fn offered_here(&self) -> Vec<SpecHash> {
        let instances = self.directory.instances();
        let here = instances.iter().filter(|instance| instance.session.is_some());
        let offered: HashSet<SpecHash> = here.flat_map(|instance| instance.offers.values().copied()).collect();
        offered.into_iter().collect()
    }

    /// Saves one batch after another; true if nothing is left.
    async fn save_batches(&self) -> bool {
        loop {
            let batch: Vec<(SpecHash, OperationSpec)> = {
                let unsaved = self.queue.unsaved.lock();
                unsaved.values().take(BATCH).map(|o| (o.hash, o.spec.clone())).collect()
            };
            if batch.is_empty() {
                return true;
            }
            if !self.save_batch(&batch).await {
                return false;
            }
        }
    }

    /// Saves a batch; if some are refused for good, only those are. False if the batch is to be tried again.
    async fn save_batch(&self, batch: &[(SpecHash, OperationSpec)]) -> bool {
        match self.keep_batch(batch).await {
            Ok(()) => self.queue.settle(batch, true),
            Err(error) if error.is_transient() => return false,
            Err(error) if batch.len() == 1 => {
                let spec = &batch[0].1;
                tracing::error!(
                    operation = format!("{}.{}", spec.namespace, spec.name), %error,
                    "a specification cannot be saved: other hubs cannot call the operation"
                );
                self.queue.settle(batch, false);
            }
            Err(_) => {
                for one in batch.chunks(1) {
                    if !Box::pin(self.save_batch(one)).await {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Writes specifications, and forgets what their spokes offered long ago, beyond what may be kept of each spoke.
    async fn keep_batch(&self, batch: &[(SpecHash, OperationSpec)]) -> Result<(), alkhub_store::Error> {
        let operations = self.store.operations();
        operations.put(batch).await?;
        let owner = |(hash, _): &(SpecHash, OperationSpec)| Some((*hash, self.specs.owner(hash)?));
        let owned: Vec<_> = batch.iter().filter_map(owner).collect();
        if operations.charge(&owned, self.stored_bytes).await? > 0 {
            // It is not known here which were forgotten, so whatever is offered again is saved again.
            self.queue.saved.lock().clear();
        }
        Ok(())
    }

    /// Loads what the directory names and this hub does not have, until the hub ends.
    pub(crate) async fn load_specs(self: Arc<Self>) {
        let mut backoff = BACKOFF;
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
            let pause = (left > 0).then(|| backoff.pause());
            if left == 0 {
                backoff.reset();
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.queue.load.notified() => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    async fn load_batch(&self, missing: &[(SpecHash, SpokeName)]) {
        let owners: HashMap<SpecHash, &SpokeName> = missing.iter().map(|(hash, spoke)| (*hash, spoke)).collect();
        let mut hashes: Vec<SpecHash> = owners.keys().copied().collect();
        let loader: Arc<str> = LOADER.into();
        while !hashes.is_empty() {
            let loaded = match self.store.operations().get(&hashes, LOADED_BYTES).await {
                Ok(loaded) => loaded,
                Err(error) => {
                    tracing::debug!(%error, "specifications of other hubs' operations could not be loaded");
                    return;
                }
            };
            hashes.clear();
            for (hash, spec) in loaded {
                match (owners.get(&hash), spec) {
                    (Some(spoke), Some(spec)) => self.load(spoke, &loader, hash, spec).await,
                    (Some(_), None) => hashes.push(hash),
                    (None, _) => {}
                }
            }
        }
    }

    async fn load(&self, spoke: &SpokeName, loader: &Arc<str>, hash: SpecHash, spec: OperationSpec) {
        match self.specs.compile(spoke, loader, spec).await {
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
