//! An operation with its compiled checks.

use std::ops::RangeInclusive;
use std::sync::Arc;

use alkhub_protocol::{CallError, Code, OperationKind, OperationName, OperationSpec, RawJson, SpecHash};
use alkhub_schema::{Check, Nothing, Prepared, Side};

use crate::metrics::Series;

/// What an operation takes beside its checks, in bytes; its texts come on top.
const BARE_BYTES: usize = 1024;

/// The HTTP status of a spoke's failure that declares none.
pub(crate) const BAD_GATEWAY: u16 = 502;

/// The HTTP statuses that a declared error may have.
pub(crate) const STATUSES: RangeInclusive<u16> = 400..=599;

/// One operation as it is called.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) name: OperationName,
    /// As its spokes spell it.
    pub(crate) spelled: Box<str>,
    pub(crate) spec: OperationSpec,
    pub(crate) hash: SpecHash,
    pub(crate) input: Check,
    /// What a spoke of the origin gets for an input of nothing.
    pub(crate) nothing: Nothing,
    pub(crate) output: Check,
    pub(crate) series: Arc<Series>,
    /// The fields of its specification that the hub does not act on.
    pub(crate) warnings: Vec<String>,
    /// How much memory it takes at most, in bytes.
    pub(crate) bytes: usize,
}

/// Why a specification cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the {part} {source}")]
    Schema {
        part: &'static str,
        source: alkhub_schema::Error,
    },
    #[error("it takes at least {bytes} bytes when it is compiled")]
    Over { bytes: usize },
}

// === impl Operation ===

impl Operation {
    /// Compiles the checks, unless the operation takes more bytes than `limit`: then as little as possible is done. Takes
    /// seconds for the largest schemas: not for a thread that serves others.
    pub(crate) fn compile(
        name: OperationName,
        spec: OperationSpec,
        hash: SpecHash,
        series: Arc<Series>,
        limit: usize,
    ) -> Result<Self, Error> {
        let bare = BARE_BYTES + text_bytes(&spec);
        let input = prepare(Side::Input, &spec.input_schema, bare, limit)?;
        let bytes = bare + input.bytes;
        let output = prepare(Side::Output, &spec.output_schema, bytes, limit)?;
        let named = |part: &'static str, warnings: Vec<String>| {
            warnings.into_iter().map(move |warning| format!("`{part}`: {warning}"))
        };
        let warnings = named("inputSchema", input.warnings).chain(named("outputSchema", output.warnings));
        Ok(Self {
            warnings: warnings.collect(),
            bytes: bytes + output.bytes,
            input: input.check,
            nothing: input.nothing,
            output: output.check,
            name,
            spelled: spec.spelled().into(),
            spec,
            hash,
            series,
        })
    }

    /// The same without its checks: what is kept of an operation that nobody offers.
    pub(crate) fn unchecked(&self) -> Self {
        Self {
            name: self.name.clone(),
            spelled: self.spelled.clone(),
            spec: self.spec.clone(),
            hash: self.hash,
            input: Check::Anything,
            nothing: self.nothing,
            output: Check::Anything,
            series: Arc::clone(&self.series),
            warnings: Vec::new(),
            bytes: 0,
        }
    }

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
            .filter(|status| STATUSES.contains(status))
            .or_else(|| matches!(error.code, Code::NotFound | Code::Conflict).then_some(BAD_GATEWAY));
        error
    }
}

/// Compiles a schema of an operation that has `taken` so many bytes without it, of so many at most.
fn prepare(side: Side, schema: &RawJson, taken: usize, limit: usize) -> Result<Prepared, Error> {
    let part = match side {
        Side::Input => "input schema",
        Side::Output => "output schema",
    };
    let room = limit.checked_sub(taken).ok_or(Error::Over { bytes: taken })?;
    Check::prepare(schema, side, room).map_err(|source| match source {
        alkhub_schema::Error::Over { bytes } => Error::Over { bytes: taken + bytes },
        source => Error::Schema { part, source },
    })
}

/// The texts of a specification, in bytes.
pub(crate) fn text_bytes(spec: &OperationSpec) -> usize {
    let errors = spec.error_schemas.iter();
    let errors = errors.map(|error| error.code.len() + error.description.len() + error.schema.len());
    let scopes = spec.access_control.required_scopes.iter();
    let scopes = scopes.chain(&spec.access_control.required_scopes_any);
    [
        spec.description.len(),
        spec.title.as_ref().map_or(0, String::len),
        spec.tags.iter().chain(scopes).map(String::len).sum(),
        spec.input_schema.len() + spec.output_schema.len(),
        spec.meta.as_ref().map_or(0, RawJson::len),
        errors.sum(),
    ]
    .iter()
    .sum()
}
