//! Keeps the store from growing for ever: notes which specifications are offered, and deletes those that nobody needs
//! any more.
//!
//! Invariants
//! - A specification that an instance of this hub offers is noted at least twice an hour: none that any hub needs comes
//!   near the end of its retention.
//! - Every hub does this, each at times of its own, in small statements that wait for nobody's lock.

use std::sync::Arc;
use std::time::Duration;

use alkhub_store::{PRUNED, Store};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::directory::specs::SpecKeeper;

/// How often offered specifications are noted.
const NOTE: Duration = Duration::from_secs(30 * 60);

/// How often the hub looks for specifications that nobody needs.
const PRUNE: Duration = Duration::from_secs(3600);

/// The pause between two batches.
const PAUSE: Duration = Duration::from_millis(200);

/// The most batches at one time; the next hour takes the rest.
const BATCHES: usize = 100;

/// Notes what is offered, and forgets what is not.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    pub(crate) store: Store,
    pub(crate) specs: Arc<SpecKeeper>,
    /// How long a spoke that no resource declares may stay away.
    pub(crate) undeclared_retention: Duration,
    /// How long a specification is kept that nobody offers.
    pub(crate) operation_retention: Duration,
    pub(crate) stop: CancellationToken,
}

// === impl Housekeeping ===

impl Housekeeping {
    /// Runs until the hub ends.
    pub(crate) async fn run(self) {
        // So that the hubs do not do this all at once.
        let mut note_at = Instant::now() + NOTE.mul_f64(fastrand::f64());
        let mut prune_at = Instant::now() + PRUNE.mul_f64(fastrand::f64());
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep_until(note_at) => {
                    note_at = Instant::now() + NOTE;
                    self.stop.run_until_cancelled(self.note_offered()).await;
                }
                () = tokio::time::sleep_until(prune_at) => {
                    prune_at = Instant::now() + PRUNE;
                    self.stop.run_until_cancelled(self.prune()).await;
                }
            }
        }
    }

    /// Notes what the instances on this hub offer.
    async fn note_offered(&self) {
        let offered = self.specs.offered_here();
        if let Err(error) = self.store.operations().touch(&offered).await {
            // It is noted again half an hour later.
            tracing::debug!(%error, "that specifications are offered was not noted");
        }
        // A specification that is no longer in the store cannot be noted: it has to be saved again.
        self.specs.recheck();
    }

    async fn prune(&self) {
        match self.store.spokes().prune_undeclared(self.undeclared_retention).await {
            Ok(0) => {}
            Ok(spokes) => tracing::info!(spokes, "undeclared spokes that stayed away were forgotten"),
            Err(error) => tracing::debug!(%error, "undeclared spokes that stayed away were not forgotten"),
        }
        for _ in 0..BATCHES {
            match self.store.operations().prune(self.operation_retention).await {
                Ok(rows) if rows < PRUNED.unsigned_abs() => return,
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(error) => return tracing::debug!(%error, "specifications that nobody offers were not forgotten"),
            }
        }
    }
}
