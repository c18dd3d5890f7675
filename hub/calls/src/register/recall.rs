//! Specifications that a registration names by their hash: of those that this hub has compiled, else of those in the store.
//!
//! Invariants
//! - A spoke gets what it may offer, and nothing else: a hash of another namespace's specification is as unknown as one that
//!   nobody has made, and takes the same way.
//! - Few registrations read at once, and none waits for the store for longer than [`WAIT`]; what was read is charged to the key
//!   until it is compiled. What cannot be had is unknown, and its spoke sends it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_budget::{Budgets, Held, Kept};
use alkhub_protocol::{OperationSpec, SpecHash};
use alkhub_store::Store;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::registrant::Registrant;
use crate::compiled::Specs;
use crate::operation::{self, Operation};

/// How long a registration waits for the store, over all batches.
const WAIT: Duration = Duration::from_secs(5);

/// Registrations that read at once: after a restart many name the same, and the first of them reads for all.
const READS: usize = 4;

/// Specifications read at once.
const BATCH: usize = 64;

/// Knows specifications by their hash.
#[derive(Debug)]
pub(crate) struct Recall {
    specs: Arc<Specs>,
    store: Store,
    budgets: Budgets,
    reads: Semaphore,
}

/// What a registration names and this hub knows.
type Known = HashMap<SpecHash, Arc<Operation>>;

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

    /// The operations of these hashes, as far as this hub knows them and the registrant may offer them.
    pub(super) async fn recall(&self, registrant: &Registrant, hashes: &HashSet<SpecHash>) -> Known {
        let mut known = Known::new();
        let missing: Vec<SpecHash> = hashes.iter().copied().collect();
        let missing = self.remember(registrant, missing, &mut known);
        let until = Instant::now() + WAIT;
        for batch in missing.chunks(BATCH) {
            self.load(registrant, (batch.to_vec(), until), &mut known).await;
        }
        known
    }

    /// Takes what is in memory; what is left.
    fn remember(&self, registrant: &Registrant, mut hashes: Vec<SpecHash>, known: &mut Known) -> Vec<SpecHash> {
        hashes.retain(|hash| {
            let operation = self.specs.get(hash).filter(|known| registrant.may_offer(&known.name));
            operation.is_none_or(|operation| known.insert(*hash, operation).is_some())
        });
        hashes
    }

    async fn load(&self, registrant: &Registrant, (batch, until): (Vec<SpecHash>, Instant), known: &mut Known) {
        let read = timeout_at(until, self.read(registrant, batch, known)).await;
        let Ok(Some((read, _held))) = read else { return };
        for (hash, spec) in read {
            // One that a hub of another version has written may have another hash here.
            let may_offer = spec.operation().is_ok_and(|name| registrant.may_offer(&name));
            if !may_offer || SpecHash::of(&spec) != hash {
                continue;
            }
            // Why it cannot be used the spoke learns when it has sent it.
            if let Ok(operation) = self.specs.compile(&registrant.spoke, &registrant.key, spec).await {
                known.insert(hash, operation);
            }
        }
    }

    /// Reads what is not in memory by now.
    async fn read(
        &self,
        registrant: &Registrant,
        batch: Vec<SpecHash>,
        known: &mut Known,
    ) -> Option<(Vec<(SpecHash, OperationSpec)>, Held)> {
        if !self.store.ready() {
            return None;
        }
        let _place = self.reads.acquire().await.ok()?;
        let missing = self.remember(registrant, batch, known);
        let read = self.store.operations().get(&missing).await;
        let read = read
            .inspect_err(|error| tracing::debug!(%error, "specifications that a spoke names could not be read"))
            .ok()?;
        let bytes = read.iter().map(|(_, spec)| operation::text_bytes(spec)).sum();
        let held = self.budgets.key(&registrant.key).take(Kept::Registrations, bytes);
        Some((read, held.ok()?))
    }
}
