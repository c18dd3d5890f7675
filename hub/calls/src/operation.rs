//! An operation with its compiled checks, and the specifications that this hub has in memory by their hash.

use std::collections::HashMap;
use std::sync::Arc;

use alkhub_protocol::{CallError, Code, OperationKind, OperationName, OperationSpec, RawJson};
use alkhub_store::SpecHash;
use parking_lot::Mutex;

use crate::metrics::{Metrics, Series};
use crate::schema::{self, Check};

/// Specifications kept although no spoke offers them: a spoke that comes back finds its own compiled.
const IDLE_SPECS: usize = 4_096;

/// The HTTP status of a spoke's failure that declares none.
const BAD_GATEWAY: u16 = 502;

/// One operation as it is called.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) name: OperationName,
    pub(crate) spec: OperationSpec,
    pub(crate) hash: SpecHash,
    pub(crate) input: Check,
    pub(crate) output: Check,
    pub(crate) series: Arc<Series>,
}

/// Compiled operations by hash, bounded.
#[derive(Debug)]
pub(crate) struct Specs {
    by_hash: Mutex<HashMap<SpecHash, Arc<Operation>>>,
    metrics: Arc<Metrics>,
}

/// Why a specification cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Name(#[from] alkhub_protocol::id::InvalidId),
    #[error("the {part} {source}")]
    Schema { part: &'static str, source: schema::Error },
}

// === impl Operation ===

impl Operation {
    pub(crate) fn is_subscription(&self) -> bool {
        self.spec.kind == OperationKind::Subscription
    }

    /// Adds to an error of the spoke what the specification declares for its code. What a domain did not find, or where
    /// it saw a conflict, is nothing of the hub's: without a declared status the caller sees that the spoke failed.
    pub(crate) fn declare(&self, mut error: CallError) -> CallError {
        let declared = |declared: &&alkhub_protocol::operation::ErrorSpec| declared.code == error.code.as_str();
        error.declared_status = self
            .spec
            .error_schemas
            .iter()
            .find(declared)
            .and_then(|declared| declared.http_status)
            .filter(|status| (400..600).contains(status))
            .or_else(|| matches!(error.code, Code::NotFound | Code::Conflict).then_some(BAD_GATEWAY));
        error
    }
}

// === impl Specs ===

impl Specs {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            by_hash: Mutex::new(HashMap::new()),
            metrics,
        }
    }

    pub(crate) fn get(&self, hash: &SpecHash) -> Option<Arc<Operation>> {
        self.by_hash.lock().get(hash).cloned()
    }

    /// The operation of a specification, compiled unless it is known.
    pub(crate) fn compile(&self, spec: OperationSpec) -> Result<Arc<Operation>, Error> {
        let hash = SpecHash::of(&spec);
        if let Some(known) = self.get(&hash) {
            return Ok(known);
        }
        let name = spec.operation()?;
        let operation = Arc::new(Operation {
            input: compile("input schema", &spec.input_schema)?,
            output: compile("output schema", &spec.output_schema)?,
            series: self.metrics.series(&name),
            name,
            spec,
            hash,
        });
        let mut by_hash = self.by_hash.lock();
        if by_hash.len() >= IDLE_SPECS {
            // Those in use are held by the directory too.
            by_hash.retain(|_, operation| Arc::strong_count(operation) > 1);
        }
        by_hash.insert(hash, Arc::clone(&operation));
        Ok(operation)
    }
}

fn compile(part: &'static str, schema: &RawJson) -> Result<Check, Error> {
    Check::compile(schema).map_err(|source| Error::Schema { part, source })
}
