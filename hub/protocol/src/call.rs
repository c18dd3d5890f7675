//! A call: what its caller asks for, what accompanies its input, and what is known of it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::texts;
use crate::{OperationName, RawJson, RequestId};

/// Whether the spoke received a call that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Delivered {
    /// It did not: sending the call again repeats nothing.
    No,
    /// It may have: sending a mutation again may repeat it.
    #[default]
    Maybe,
    /// It did.
    Yes,
}

/// Longest [`Metadata`], in bytes.
pub const METADATA_LIMIT_BYTES: usize = 16 * 1024;

/// What accompanies a call besides its input: a JSON object of the caller's, which reaches the handler unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    raw: RawJson,
    traceparent: Option<String>,
}

/// Why a value is not a [`Metadata`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// Not an object.
    #[error("`metadata` must be a JSON object")]
    NoObject,
    /// Over [`METADATA_LIMIT_BYTES`].
    #[error("`metadata` of {0} bytes is larger than the limit of {METADATA_LIMIT_BYTES} bytes")]
    TooLarge(usize),
}

/// Who asks for a call, as its spoke sees it. The hub makes it from the caller's key; what a caller says of itself is
/// not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// The key's id, as in call records.
    pub id: String,
    /// The scopes that the operation asks for in its `accessControl` and that the caller has.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// What a caller asks for, over any surface.
#[derive(Clone, Debug)]
pub struct CallRequest {
    /// The caller's id for the call; on its connection it is unique among the running ones.
    pub request_id: RequestId,
    /// What to call.
    pub operation: OperationName,
    /// The input, if the caller sent one.
    pub input: Option<RawJson>,
    /// Time left until the call fails with `TIMEOUT`; if absent, the hub's default applies.
    pub timeout: Option<Duration>,
    /// For subscriptions: the longest silence between two items.
    pub idle_timeout: Option<Duration>,
    /// The call during which this one is made.
    pub parent: Option<RequestId>,
    /// Only this spoke may answer.
    pub target: Option<crate::SpokeName>,
    /// W3C trace context, handed on in the metadata.
    pub traceparent: Option<String>,
    /// The caller's metadata, handed on as it is.
    pub metadata: Option<Metadata>,
    /// What becomes of the call when its caller's connection is lost.
    pub on_disconnect: OnDisconnect,
}

/// What happens to a call when its caller's connection, or its caller's hub, is lost.
///
/// No surface lets a caller choose yet: every call made over one is aborted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It is aborted: nobody waits for it.
    #[default]
    Abort,
    /// It goes on to its end or its deadline, and its record says how it ended. Its answers go nowhere.
    Detach,
}

/// Where a call is, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CallStatus {
    /// Answered, or for a subscription ended by the spoke.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended by its caller.
    Aborted,
}

texts!(CallStatus {
    Completed = "completed",
    Failed = "failed",
    Aborted = "aborted",
});

/// One ended call, as `GET /v1/calls` lists it. Inputs and outputs are not kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    /// The hub's own id, a UUID version 7: it sorts by time.
    #[schemars(with = "String")]
    pub call_id: String,
    /// The caller's id.
    pub request_id: String,
    /// The parent's id as the caller gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_request_id: Option<String>,
    /// What was called.
    pub operation: String,
    /// How it ended.
    pub status: CallStatus,
    /// The error's code, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The caller's key, by its id.
    pub caller: String,
    /// The spoke that got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoke: Option<String>,
    /// The hub that admitted the call.
    pub hub_id: String,
    /// When the hub admitted it.
    #[schemars(with = "String")]
    pub started_at: jiff::Timestamp,
    /// From then to the end, in microseconds.
    pub duration_us: u64,
    /// Size of the input in bytes.
    pub input_bytes: u64,
    /// Size of the output, or of all items together, in bytes.
    pub output_bytes: u64,
    /// W3C trace id, when the caller gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

// === impl CallRequest ===

impl CallRequest {
    /// A call with nothing but its input: for any spoke that offers the operation, with the hub's own deadline.
    pub fn new(request_id: RequestId, operation: OperationName, input: Option<RawJson>) -> Self {
        Self {
            request_id,
            operation,
            input,
            timeout: None,
            idle_timeout: None,
            parent: None,
            target: None,
            traceparent: None,
            metadata: None,
            on_disconnect: OnDisconnect::default(),
        }
    }

    /// The input as it is validated and counted: `null` if there is none.
    pub fn input_or_null(&self) -> RawJson {
        self.input.clone().unwrap_or_else(RawJson::null)
    }
}

// === impl Metadata ===

impl Metadata {
    /// Takes an object as it is.
    ///
    /// # Errors
    /// [`InvalidMetadata`].
    pub fn new(raw: RawJson) -> Result<Self, InvalidMetadata> {
        #[derive(Deserialize)]
        struct Traced {
            #[serde(default)]
            traceparent: Option<serde_json::Value>,
        }
        if raw.as_bytes().first() != Some(&b'{') {
            return Err(InvalidMetadata::NoObject);
        }
        if raw.len() > METADATA_LIMIT_BYTES {
            return Err(InvalidMetadata::TooLarge(raw.len()));
        }
        // An application may use the name for something else.
        let traced = raw.to::<Traced>().ok().and_then(|traced| traced.traceparent);
        let traceparent = traced.and_then(|value| value.as_str().map(str::to_owned));
        Ok(Self { raw, traceparent })
    }

    /// See [`RawJson::out_of`].
    #[must_use]
    pub fn out_of(mut self, frame_bytes: usize) -> Self {
        self.raw = self.raw.out_of(frame_bytes);
        self
    }

    /// The object.
    pub fn raw(&self) -> &RawJson {
        &self.raw
    }

    /// The W3C trace context, if the object has one.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}

/// What an output must look like on the wire: `{data, meta}`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResponseEnvelope {
    /// The value.
    pub data: RawJson,
    /// Where it came from; `meta.source` is `local`, `http` or `mcp`.
    pub meta: RawJson,
}
