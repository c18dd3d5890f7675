//! The specifications that this hub has in memory by their hash, within a budget of bytes.
//!
//! Invariants
//! - What compiled specifications take at most is known ([`Operation::bytes`]) and bounded, for the hub and for each
//!   spoke. An operation is charged to the spoke that first brought it, until this hub drops it.
//! - What nobody uses goes first; what is in use is never dropped. What does not fit then is refused, by the setting's
//!   name.
//! - Nothing is compiled on a thread that serves connections, and no more than [`COMPILED_AT_ONCE`] at once.

use std::collections::HashMap;
use std::sync::Arc;

use alkhub_protocol::{OperationSpec, SpokeName};
use alkhub_store::SpecHash;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::operation::{self, Operation};

/// Specifications compiled at once: the other threads serve.
const COMPILED_AT_ONCE: usize = 1;

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
    turn: Semaphore,
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
    #[error(
        "it takes {bytes} bytes when it is compiled, and the specifications of spoke `{spoke}` would take more than \
         the {limit} that one spoke may have on a hub: use fewer and simpler patterns and smaller schemas, or raise \
         `calls.spec-bytes-per-spoke`"
    )]
    SpokeBudget {
        bytes: usize,
        limit: usize,
        spoke: SpokeName,
    },
    #[error(
        "it takes {bytes} bytes when it is compiled, and the hub's specifications would take more than {limit}: raise \
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
            turn: Semaphore::new(COMPILED_AT_ONCE),
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

    /// The operation of a specification that a spoke brought, compiled unless it is known. Dropping the future keeps
    /// nothing; what is being compiled is finished and dropped.
    pub(crate) async fn compile(&self, spoke: &SpokeName, spec: OperationSpec) -> Result<Arc<Operation>, Error> {
        let hash = SpecHash::of(&spec);
        let name = spec.operation()?;
        if let Some(known) = self.get(&hash) {
            return Ok(known);
        }
        let _turn = self.turn.acquire().await.expect("it is never closed");
        if let Some(known) = self.get(&hash) {
            return Ok(known);
        }
        let series = self.metrics.series(&name);
        let compile = move || Operation::compile(name, spec, hash, series);
        let operation = tokio::task::spawn_blocking(compile).await??;
        self.keep(spoke, operation)
    }

    /// Keeps a compiled operation when it fits.
    pub(crate) fn keep(&self, spoke: &SpokeName, operation: Operation) -> Result<Arc<Operation>, Error> {
        let (hash, bytes) = (operation.hash, operation.bytes);
        let mut kept = self.kept.lock();
        if kept.of(spoke) + bytes > self.budget.spoke {
            kept.drop_unused(|owner| owner == spoke);
        }
        if kept.bytes + bytes > self.budget.hub {
            kept.drop_unused(|_| true);
        }
        let refused = if kept.of(spoke) + bytes > self.budget.spoke {
            Some(Error::SpokeBudget {
                bytes,
                limit: self.budget.spoke,
                spoke: spoke.clone(),
            })
        } else if kept.bytes + bytes > self.budget.hub {
            Some(Error::HubBudget {
                bytes,
                limit: self.budget.hub,
            })
        } else {
            None
        };
        if let Some(refused) = refused {
            self.metrics.specs.refused.inc();
            self.told(&kept);
            return Err(refused);
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
mod tests {
    use super::*;
    use crate::fixture::{metrics, spec};

    fn spoke(name: &str) -> SpokeName {
        name.parse().expect("valid")
    }

    /// Some 3.5 KiB each.
    fn text(i: usize) -> OperationSpec {
        spec(&format!("text.op{i}"), r#"{"type":"string"}"#)
    }

    #[tokio::test]
    async fn a_spoke_over_its_budget_is_refused_and_others_are_not() {
        let specs = Specs::new(
            metrics(),
            Budget {
                hub: 1 << 20,
                spoke: 9_000,
            },
        );
        let mut in_use = Vec::new();
        for i in 0..2 {
            in_use.push(specs.compile(&spoke("a"), text(i)).await.expect("fits"));
        }

        let refused = specs.compile(&spoke("a"), text(2)).await.expect_err("over the budget");
        let known = specs.compile(&spoke("a"), text(1)).await;
        let other = specs.compile(&spoke("b"), text(2)).await;

        assert!(matches!(&refused, Error::SpokeBudget { limit: 9_000, .. }), "{refused}");
        assert!(
            refused.to_string().contains("`calls.spec-bytes-per-spoke`"),
            "{refused}"
        );
        assert!(known.is_ok() && other.is_ok());
    }

    #[tokio::test]
    async fn what_nobody_uses_makes_room() {
        let specs = Specs::new(
            metrics(),
            Budget {
                hub: 9_000,
                spoke: 9_000,
            },
        );
        let first = specs.compile(&spoke("a"), text(0)).await.expect("fits");
        for i in 1..20 {
            specs
                .compile(&spoke("a"), text(i))
                .await
                .expect("the one before it is not used");
        }

        let kept = specs.get(&first.hash).expect("it is in use");

        assert!(Arc::ptr_eq(&kept, &first));
        assert!(specs.kept.lock().bytes <= 9_000);
    }

    #[tokio::test]
    async fn a_full_hub_refuses_by_the_name_of_the_setting() {
        let specs = Specs::new(
            metrics(),
            Budget {
                hub: 5_000,
                spoke: 1 << 20,
            },
        );
        let _in_use = specs.compile(&spoke("a"), text(0)).await.expect("fits");

        let refused = specs.compile(&spoke("b"), text(1)).await.expect_err("over the budget");

        assert!(refused.to_string().contains("`calls.spec-bytes`"), "{refused}");
    }

    #[tokio::test]
    async fn what_made_room_in_vain_is_told_as_gone() {
        let specs = Specs::new(
            metrics(),
            Budget {
                hub: 9_000,
                spoke: 5_000,
            },
        );
        drop(specs.compile(&spoke("a"), text(0)).await.expect("fits"));
        let large = r#"{"type":"string","pattern":"^(a|b|c){1,40}[a-z]{3,90}$"}"#;

        let refused = specs.compile(&spoke("a"), spec("text.large", large)).await;

        assert!(matches!(refused, Err(Error::SpokeBudget { .. })), "{refused:?}");
        assert_eq!(specs.metrics.specs.bytes.get(), 0);
    }

    #[tokio::test]
    async fn patterns_count_with_what_they_may_take() {
        let specs = Specs::new(
            metrics(),
            Budget {
                hub: 1 << 30,
                spoke: 1 << 30,
            },
        );
        let schema = r#"{"type":"string","pattern":"^(a|b){500}c[0-9a-f]{200}$"}"#;

        let plain = specs.compile(&spoke("a"), text(0)).await.expect("fits");
        let pattern = specs
            .compile(&spoke("a"), spec("text.hard", schema))
            .await
            .expect("fits");

        assert!(
            pattern.bytes > plain.bytes + 100_000,
            "{} {}",
            pattern.bytes,
            plain.bytes
        );
    }
}
