//! Specifications that a registration names by their hash: from those that this hub has compiled, or else from the
//! store.
//!
//! Invariants
//! - A spoke gets what it may offer, and nothing else: the hash of another namespace's specification is as unknown as
//!   one that nobody has made, and takes the same path.
//! - Only a few registrations read at once, [`READ_BYTES`] each, and none waits longer than [`WAIT`] for the store.
//!   What was read is charged to the key until it is compiled. A specification that cannot be had counts as unknown,
//!   and the spoke sends it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_budget::{Budgets, Held, Kept};
use alkhub_protocol::{OperationSpec, SpecHash};
use alkhub_store::Store;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::registrant::Registrant;
use crate::directory::compiled::Specs;
use crate::directory::operation::{self, Operation};

/// How long a registration waits for the store, all batches together.
const WAIT: Duration = Duration::from_secs(5);

/// How many registrations read at once: after a restart many name the same specifications, and the first one reads for
/// all.
const READS: usize = 4;

/// The most specifications that are read at once ...
const BATCH: usize = 64;

/// ... and the most bytes of their texts, not counting the last one.
const READ_BYTES: usize = 1024 * 1024;

/// Finds specifications by their hash.
#[derive(Debug)]
pub(crate) struct Recall {
    specs: Arc<Specs>,
    store: Store,
    budgets: Budgets,
    reads: Semaphore,
}

/// The operations that a registration names and this hub knows.
type Known = HashMap<SpecHash, Arc<Operation>>;

/// The result of a read from the store.
struct Read {
    specs: Vec<(SpecHash, OperationSpec)>,
    /// Those that the store knows and that are still to be read.
    left: Vec<SpecHash>,
    _held: Held,
}

// === impl Recall ===

impl Recall {
    pub(crate) fn new(specs: Arc<Specs>, store: Store, budgets: Budgets) -> Self {
        Self {
            specs,
            store,
            budgets,
            reads: Semaphore::new(READS),
        }
    }

    /// The operations with these hashes, as far as this hub knows them and the registrant may offer them.
    pub(super) async fn recall(&self, registrant: &Registrant, hashes: &HashSet<SpecHash>) -> Known {
        let mut known = Known::new();
        let missing: Vec<SpecHash> = hashes.iter().copied().collect();
        let missing = self.remember(registrant, missing, &mut known);
        let until = Instant::now() + WAIT;
        for batch in missing.chunks(BATCH) {
            let mut left = batch.to_vec();
            while !left.is_empty() {
                left = self.load(registrant, left, until, &mut known).await;
            }
        }
        known
    }

    /// Takes what is in memory; returns what is left.
    fn remember(&self, registrant: &Registrant, mut hashes: Vec<SpecHash>, known: &mut Known) -> Vec<SpecHash> {
        hashes.retain(|hash| {
            let operation = self.specs.get(hash).filter(|known| registrant.may_offer(&known.name));
            operation.is_none_or(|operation| known.insert(*hash, operation).is_some())
        });
        hashes
    }

    /// Loads as many as may be read at once, if there is time; returns those that are left.
    async fn load(
        &self,
        registrant: &Registrant,
        hashes: Vec<SpecHash>,
        until: Instant,
        known: &mut Known,
    ) -> Vec<SpecHash> {
        let read = timeout_at(until, self.read(registrant, hashes, known)).await;
        let Ok(Some(read)) = read else {
            return Vec::new();
        };
        for (hash, spec) in read.specs {
            // A specification that a hub of another version has written may have another hash here.
            let may_offer = spec.operation().is_ok_and(|name| registrant.may_offer(&name));
            if !may_offer || SpecHash::of(&spec) != hash {
                continue;
            }
            // If it cannot be used, the spoke learns why when it has sent the specification.
            if let Ok(operation) = self.specs.compile(&registrant.spoke, &registrant.key, spec).await {
                known.insert(hash, operation);
            }
        }
        read.left
    }

    /// Reads from the store what is still not in memory.
    async fn read(&self, registrant: &Registrant, hashes: Vec<SpecHash>, known: &mut Known) -> Option<Read> {
        if !self.store.ready() {
            return None;
        }
        let _place = self.reads.acquire().await.ok()?;
        let missing = self.remember(registrant, hashes, known);
        let read = self.store.operations().get(&missing, READ_BYTES).await;
        let read = read
            .inspect_err(|error| tracing::debug!(%error, "specifications that a spoke names could not be read"))
            .ok()?;
        let (mut specs, mut left) = (Vec::new(), Vec::new());
        for (hash, spec) in read {
            match spec {
                Some(spec) => specs.push((hash, spec)),
                None => left.push(hash),
            }
        }
        let bytes = specs.iter().map(|(_, spec)| operation::text_bytes(spec)).sum();
        let held = self.budgets.key(&registrant.key).take(Kept::Registrations, bytes);
        Some(Read {
            specs,
            left,
            _held: held.ok()?,
        })
    }
}
