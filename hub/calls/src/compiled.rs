//! The specifications that this hub has in memory by their hash, within a budget of bytes.
//!
//! Invariants
//! - What compiled specifications take at most is known ([`Operation::bytes`]) and bounded, for the hub and for each
//!   spoke. An operation is charged to the spoke that first brought it, until this hub drops it.
//! - What nobody uses goes first; what is in use is never dropped. What does not fit then is refused, by the setting's
//!   name, and as far as that can be told before it is compiled: what was refused is remembered for a while.
//! - Nothing is compiled on a thread that serves connections, and no more than one that is light and one that is heavy at
//!   once. Each kind has turns that the keys take one after the other ([`Fair`]): nobody waits for more than one
//!   specification of each other key, and who brings light ones for none that is heavy.

mod refused;

use std::collections::HashMap;
use std::sync::Arc;

use alkhub_protocol::{OperationName, OperationSpec, SpokeName};
use alkhub_store::SpecHash;
use parking_lot::Mutex;

use crate::fair::Fair;
use crate::metrics::Metrics;
use crate::operation::{self, Operation};
use refused::{Refusal, Refused};

/// What a specification takes at most, in bytes, that is light: a thirtieth of what one spoke may have.
const LIGHT_BYTES: usize = 1024 * 1024;

/// How much compiled specifications may take, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) hub: usize,
    pub(crate) spoke: usize,
}

/// Compiled operations by hash.
#[derive(Debug)]
pub(crate) struct Specs {
    kept: Mutex<Kept>,
    budget: Budget,
    light: Arc<Fair>,
    heavy: Arc<Fair>,
    refused: Mutex<Refused>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Kept {
    by_hash: HashMap<SpecHash, (SpokeName, Arc<Operation>)>,
    bytes: usize,
    by_spoke: HashMap<SpokeName, usize>,
}

/// Why a specification cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Name(#[from] alkhub_protocol::id::InvalidId),
    #[error(transparent)]
    Operation(#[from] operation::Error),
    /// A fault that was found before.
    #[error("{0}")]
    Known(Arc<str>),
    #[error(
        "it takes {bytes} bytes or more when it is compiled, and the specifications of spoke `{spoke}` would take more than \
         the {limit} that one spoke may have on a hub: use fewer and simpler patterns and smaller schemas, or raise \
         `calls.spec-bytes-per-spoke`"
    )]
    SpokeBudget {
        bytes: usize,
        limit: usize,
        spoke: SpokeName,
    },
    #[error(
        "it takes {bytes} bytes or more when it is compiled, and the hub's specifications would take more than {limit}: raise \
         `calls.spec-bytes` and the hub's memory with it"
    )]
    HubBudget { bytes: usize, limit: usize },
    #[error("its schemas could not be compiled: the compiler failed")]
    Failed(#[from] tokio::task::JoinError),
}

// === impl Specs ===

impl Specs {
    pub(crate) fn new(metrics: Arc<Metrics>, budget: Budget) -> Self {
        Self {
            kept: Mutex::default(),
            budget,
            light: Arc::default(),
            heavy: Arc::default(),
            refused: Mutex::default(),
            metrics,
        }
    }

    pub(crate) fn get(&self, hash: &SpecHash) -> Option<Arc<Operation>> {
        let kept = self.kept.lock();
        kept.by_hash.get(hash).map(|(_, operation)| Arc::clone(operation))
    }

    /// The spoke that first brought it.
    pub(crate) fn owner(&self, hash: &SpecHash) -> Option<SpokeName> {
        let kept = self.kept.lock();
        kept.by_hash.get(hash).map(|(spoke, _)| spoke.clone())
    }

    /// The operation of a specification that a spoke brought by a key, compiled unless it is known. Dropping the future
    /// keeps nothing; what is being compiled is finished, in its turn, and dropped.
    pub(crate) async fn compile(
        &self,
        spoke: &SpokeName,
        key: &Arc<str>,
        spec: OperationSpec,
    ) -> Result<Arc<Operation>, Error> {
        let hash = SpecHash::of(&spec);
        let name = spec.operation()?;
        if let Some(known) = self.get(&hash) {
            return Ok(known);
        }
        self.refused_before(spoke, &hash)?;
        let wanted = (name, spec, hash);
        let light = self.compile_within(&self.light, (spoke, key), &wanted, LIGHT_BYTES);
        match light.await {
            Err(Error::Operation(operation::Error::Over { .. })) => {}
            result => return result,
        }
        let heavy = self.compile_within(&self.heavy, (spoke, key), &wanted, usize::MAX);
        heavy.await
    }

    /// Compiles in a turn, unless it takes more bytes than `most`, or than there is room for.
    async fn compile_within(
        &self,
        turns: &Arc<Fair>,
        (spoke, key): (&SpokeName, &Arc<str>),
        (name, spec, hash): &(OperationName, OperationSpec, SpecHash),
        most: usize,
    ) -> Result<Arc<Operation>, Error> {
        let turn = turns.turn(key).await;
        if let Some(known) = self.get(hash) {
            return Ok(known);
        }
        self.refused_before(spoke, hash)?;
        let room = self.room(spoke);
        let (name, spec, hash, series) = (name.clone(), spec.clone(), *hash, self.metrics.series(name));
        let compile = move || {
            let compiled = Operation::compile(name, spec, hash, series, room.min(most));
            // Not before: who gave up while it was compiled leaves the turn taken until then.
            drop(turn);
            compiled
        };
        match tokio::task::spawn_blocking(compile).await? {
            Ok(operation) => self.keep(spoke, operation),
            Err(operation::Error::Over { bytes }) if bytes > room => {
                self.refused.lock().add(hash, Refusal::Bytes(bytes));
                Err(self.over(spoke, bytes))
            }
            Err(error @ operation::Error::Over { .. }) => Err(error.into()),
            Err(error @ operation::Error::Schema { .. }) => {
                self.refused.lock().add(hash, Refusal::fault(&error.to_string()));
                Err(error.into())
            }
        }
    }

    /// Refuses once more what was refused before, unless there is room for it now.
    fn refused_before(&self, spoke: &SpokeName, hash: &SpecHash) -> Result<(), Error> {
        let refusal = self.refused.lock().get(hash);
        match refusal {
            None => Ok(()),
            Some(Refusal::Fault(fault)) => Err(Error::Known(fault)),
            Some(Refusal::Bytes(bytes)) if bytes > self.room(spoke) => Err(self.over(spoke, bytes)),
            Some(Refusal::Bytes(_)) => Ok(()),
        }
    }

    /// Bytes that a spoke's next operation may take, when all goes that nobody uses.
    fn room(&self, spoke: &SpokeName) -> usize {
        let (own, all) = self.kept.lock().used(spoke);
        let own = self.budget.spoke.saturating_sub(own);
        own.min(self.budget.hub.saturating_sub(all))
    }

    /// The refusal of an operation that takes so much, with what nobody uses dropped.
    fn over(&self, spoke: &SpokeName, bytes: usize) -> Error {
        let mut kept = self.kept.lock();
        self.make_room(&mut kept, spoke, bytes);
        self.metrics.specs.refused.inc();
        self.told(&kept);
        if kept.of(spoke) + bytes > self.budget.spoke {
            return Error::SpokeBudget {
                bytes,
                limit: self.budget.spoke,
                spoke: spoke.clone(),
            };
        }
        Error::HubBudget {
            bytes,
            limit: self.budget.hub,
        }
    }

    /// Drops what nobody uses where more room is wanted.
    fn make_room(&self, kept: &mut Kept, spoke: &SpokeName, bytes: usize) {
        if kept.of(spoke) + bytes > self.budget.spoke {
            kept.drop_unused(|owner| owner == spoke);
        }
        if kept.bytes + bytes > self.budget.hub {
            kept.drop_unused(|_| true);
        }
    }

    /// Keeps a compiled operation when it fits.
    pub(crate) fn keep(&self, spoke: &SpokeName, operation: Operation) -> Result<Arc<Operation>, Error> {
        let (hash, bytes) = (operation.hash, operation.bytes);
        let mut kept = self.kept.lock();
        self.make_room(&mut kept, spoke, bytes);
        if kept.of(spoke) + bytes > self.budget.spoke || kept.bytes + bytes > self.budget.hub {
            drop(kept);
            self.refused.lock().add(hash, Refusal::Bytes(bytes));
            return Err(self.over(spoke, bytes));
        }
        let operation = Arc::new(operation);
        kept.bytes += bytes;
        *kept.by_spoke.entry(spoke.clone()).or_default() += bytes;
        kept.by_hash.insert(hash, (spoke.clone(), Arc::clone(&operation)));
        self.told(&kept);
        Ok(operation)
    }

    fn told(&self, kept: &Kept) {
        let bytes = i64::try_from(kept.bytes).unwrap_or(i64::MAX);
        self.metrics.specs.bytes.set(bytes);
    }
}

// === impl Kept ===

impl Kept {
    fn of(&self, spoke: &SpokeName) -> usize {
        self.by_spoke.get(spoke).copied().unwrap_or_default()
    }

    /// What somebody uses, in bytes: of this spoke, and of all.
    fn used(&self, of: &SpokeName) -> (usize, usize) {
        let used = self.by_hash.values();
        let used = used.filter(|(_, operation)| Arc::strong_count(operation) > 1);
        used.fold((0, 0), |(own, all), (spoke, operation)| {
            let bytes = operation.bytes;
            (if spoke == of { own + bytes } else { own }, all + bytes)
        })
    }

    /// Drops what no registration, no call and no pool holds, of the spokes that `of` tells.
    fn drop_unused(&mut self, of: impl Fn(&SpokeName) -> bool) {
        let Self {
            by_hash,
            bytes,
            by_spoke,
        } = self;
        by_hash.retain(|_, (spoke, operation)| {
            let keep = Arc::strong_count(operation) > 1 || !of(spoke);
            if !keep {
                *bytes -= operation.bytes;
                if let Some(own) = by_spoke.get_mut(spoke) {
                    *own -= operation.bytes;
                }
            }
            keep
        });
        by_spoke.retain(|_, own| *own > 0);
    }
}

#[cfg(test)]
mod tests;
