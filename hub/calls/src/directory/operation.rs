//! An operation with its compiled checks.

use std::ops::RangeInclusive;
use std::sync::Arc;

use alkhub_protocol::{CallError, Code, OperationKind, OperationName, OperationSpec, RawJson, SpecHash};
use alkhub_schema::{Check, Nothing, Prepared, Side};

use crate::metrics::Series;

/// The bytes that an operation takes beside its checks and its texts.
const BARE_BYTES: usize = 1024;

/// The HTTP status of a spoke's failure for which no status is declared.
pub(crate) const BAD_GATEWAY: u16 = 502;

/// The HTTP statuses that a declared error may have.
pub(crate) const STATUSES: RangeInclusive<u16> = 400..=599;

/// One operation as it is called.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) name: OperationName,
    /// The name as its spokes spell it.
    pub(crate) spelled: Box<str>,
    pub(crate) spec: OperationSpec,
    pub(crate) hash: SpecHash,
    pub(crate) input: Check,
    /// What a spoke of the origin gets when the caller gives no input.
    pub(crate) nothing: Nothing,
    pub(crate) output: Check,
    pub(crate) series: Arc<Series>,
    /// The fields of its specification that the hub does not act on.
    pub(crate) warnings: Vec<String>,
    /// The most memory that it takes, in bytes.
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
    /// Compiles the checks, unless the operation would take more bytes than `limit`: then as little work as possible is
    /// done. The largest schemas take seconds: do not call this on a thread that serves others.
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

    /// The same operation without its checks: what is kept of one that nobody offers.
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

    /// Adds to a spoke's error what the specification declares for its code. Something that a domain did not find, or a
    /// conflict that it saw, says nothing about the hub: without a declared status the caller sees that the spoke
    /// failed.
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

/// Compiles a schema of an operation that takes `taken` bytes without it, and may take `limit` in all.
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

/// How many bytes the texts of a specification take.
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
