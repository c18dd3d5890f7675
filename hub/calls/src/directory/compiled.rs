//! The operations that this hub has compiled, by the hash of their specification, within the settings' budget of bytes.

use std::sync::Arc;

use alkhub_protocol::{OperationSpec, SpecHash, SpokeName};
use alkhub_schema::cache::{self, Built, Cache, Capacity, Unbuilt};
use prometheus::Registry;

use crate::directory::operation::{self, Operation};
use crate::metrics::Metrics;

/// Compiled operations by hash. The most that each can take is known ([`Operation::bytes`]).
#[derive(Debug)]
pub(crate) struct Specs {
    cache: Cache<SpecHash, Operation>,
    metrics: Arc<Metrics>,
}

/// Why a specification cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Name(#[from] alkhub_protocol::id::InvalidId),
    #[error("{0}")]
    Fault(Arc<str>),
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
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        capacity: Capacity,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            cache: Cache::new(capacity, registry)?,
            metrics,
        })
    }

    pub(crate) fn get(&self, hash: &SpecHash) -> Option<Arc<Operation>> {
        self.cache.get(hash)
    }

    /// The spoke that was the first to bring it.
    pub(crate) fn owner(&self, hash: &SpecHash) -> Option<SpokeName> {
        self.cache.owner(hash)
    }

    /// The operation of a specification that a spoke brought with a key, compiled unless it is known already. Dropping
    /// the future keeps nothing; what is already being compiled is finished in its turn, and dropped.
    pub(crate) async fn compile(
        &self,
        spoke: &SpokeName,
        key: &Arc<str>,
        spec: OperationSpec,
    ) -> Result<Arc<Operation>, Error> {
        let (hash, name) = (SpecHash::of(&spec), spec.operation()?);
        let (metrics, owner) = (Arc::clone(&self.metrics), spoke.clone());
        let build = move |limit: usize| {
            let series = metrics.series(&name, Some(&owner));
            let operation = Operation::compile(name.clone(), spec.clone(), hash, series, limit)?;
            Ok(built(operation))
        };
        let operation = self.cache.get_or_build(spoke, key, hash, build).await;
        operation.map_err(|error| Error::of(error, spoke))
    }

    /// Keeps an operation that a test compiled.
    #[cfg(test)]
    pub(crate) fn keep(&self, spoke: &SpokeName, operation: Operation) -> Result<Arc<Operation>, Error> {
        let kept = self.cache.keep(spoke, operation.hash, built(operation));
        kept.map_err(|error| Error::of(error, spoke))
    }
}

fn built(operation: Operation) -> Built<Operation> {
    Built {
        bytes: operation.bytes,
        value: operation,
    }
}

// === impl Error ===

impl Error {
    /// Words the cache's error for a spoke, in terms of the settings.
    fn of(error: cache::Error, spoke: &SpokeName) -> Self {
        match error {
            cache::Error::Fault(fault) => Self::Fault(fault),
            cache::Error::SpokeFull { bytes, limit } => Self::SpokeBudget {
                bytes,
                limit,
                spoke: spoke.clone(),
            },
            cache::Error::Full { bytes, limit } => Self::HubBudget { bytes, limit },
            cache::Error::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<operation::Error> for Unbuilt {
    fn from(error: operation::Error) -> Self {
        match error {
            operation::Error::Over { bytes } => Self::Over { bytes },
            fault @ operation::Error::Schema { .. } => Self::Fault(fault.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{metrics, spec};

    fn specs(total: usize, per_spoke: usize) -> Specs {
        Specs::new(metrics(), Capacity { total, per_spoke }, &Registry::new()).expect("a fresh registry")
    }

    /// Each takes some 3.5 KiB.
    async fn compile(specs: &Specs, name: &str) -> Result<Arc<Operation>, Error> {
        let (spoke, key) = ("a".parse().expect("valid"), Arc::from("key"));
        specs.compile(&spoke, &key, spec(name, r#"{"type":"string"}"#)).await
    }

    #[tokio::test]
    async fn a_budget_that_is_used_up_is_named_by_its_setting() {
        for (specs, setting) in [
            (specs(1 << 20, 5_000), "`calls.spec-bytes-per-spoke`"),
            (specs(5_000, 1 << 20), "`calls.spec-bytes`"),
        ] {
            let _in_use = compile(&specs, "text.one").await.expect("fits");

            let refused = compile(&specs, "text.two")
                .await
                .expect_err("over the budget")
                .to_string();

            assert!(refused.contains(setting), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_schema_that_is_none_is_refused_with_its_part_each_time() {
        let specs = specs(1 << 20, 1 << 20);
        let (spoke, key) = ("a".parse().expect("valid"), Arc::from("key"));

        for _ in 0..2 {
            let refused = specs.compile(&spoke, &key, spec("text.wrong", r#"{"type":3}"#)).await;

            let refused = refused.expect_err("no type").to_string();
            assert!(
                refused.starts_with("the input schema is not a JSON Schema: at `/type`"),
                "{refused}"
            );
        }
    }
}
