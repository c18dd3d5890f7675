//! Frames: what one WebSocket message means, in both dialects of the origin.
//!
//! The origin's processes send call events with `id: ""` and the request id inside the payload; its successor puts
//! the request id into `id`. Both are read; a peer is answered in the [`Dialect`] of its first frame.
//!
//! Reading is [`Frame::decode`]; writing is one function for each message in [`encode`], which copies payloads and
//! never parses them again.

mod decode;
pub mod encode;

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::call::CallRequest;
use crate::envelope::{self, Envelope};
use crate::id::InvalidId;
use crate::topic::{InvalidTopic, TopicFilter};
use crate::{CallError, Code, OperationName, RawJson, RequestId};

/// Where a peer puts the request id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// In the payload, with an empty `id`: the origin.
    #[default]
    Payload,
    /// In the envelope's `id` (and in the payload too, which harms nobody): the origin's successor.
    Id,
}

/// What one message asks or says.
#[derive(Clone, Debug)]
pub enum Frame {
    /// `call.requested`, or `hub.register` as a message of its own.
    Requested(Requested),
    /// `call.responded`: the output, or one item of a subscription.
    Responded {
        /// Which call.
        request_id: RequestId,
        /// `{data, meta}`, or a bare value that the hub wraps.
        output: RawJson,
    },
    /// `call.completed`: no more items follow.
    Completed {
        /// Which call.
        request_id: RequestId,
    },
    /// `call.aborted`.
    Aborted {
        /// Which call.
        request_id: RequestId,
    },
    /// `call.error`.
    Failed {
        /// Which call.
        request_id: RequestId,
        /// What happened.
        error: CallError,
    },
    /// `__subscribe`.
    Subscribe(TopicFilter),
    /// `__unsubscribe`.
    Unsubscribe(TopicFilter),
    /// `__subscribed`: the hub has confirmed; only a hub sends it.
    Subscribed(String),
    /// `__unsubscribed`; only a hub sends it.
    Unsubscribed(String),
    /// `__gap`: events of a topic were lost; only a hub sends it.
    Gap(Gap),
    /// `__error`: a frame was refused; only a hub sends it.
    Refused(CallError),
    /// An event.
    Event(Envelope),
}

/// A `call.requested` as it stands on the wire. Its `identity` is not read: identity comes from the key.
#[derive(Clone, Debug)]
pub struct Requested {
    /// The caller's id.
    pub request_id: RequestId,
    /// What to call.
    pub operation: OperationName,
    /// The input; `null` when absent.
    pub input: RawJson,
    /// Calls: the absolute end in milliseconds since the epoch, by the caller's clock.
    pub deadline_ms: Option<u64>,
    /// Calls: time left in milliseconds; preferred to `deadline_ms`.
    pub timeout_ms: Option<u64>,
    /// Subscriptions: longest silence between items in milliseconds.
    pub idle_timeout_ms: Option<u64>,
    /// The call in whose course this one is made.
    pub parent: Option<RequestId>,
    /// The spoke that must answer.
    pub target: Option<crate::SpokeName>,
    /// W3C trace context, from `metadata.traceparent`.
    pub traceparent: Option<String>,
}

/// A loss, in its place in the order.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// `type:id`, or `type:*`.
    pub topic: String,
    /// Why: `overflow`, `reconnected`, `malformed` or `resume_unavailable`.
    pub reason: String,
    /// How many events are missing, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

/// Why a message is refused, with the call that it belonged to as far as that could be read.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct Error {
    /// The call to answer, when the message named one.
    pub request_id: Option<RequestId>,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// The ways a message can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum ErrorKind {
    /// Not an envelope, too large or too deep.
    #[error(transparent)]
    Envelope(#[from] envelope::Error),
    /// The payload does not have the message's shape.
    #[error("payload of `{message}` is not valid: {source}")]
    Payload {
        /// The message's type.
        message: String,
        /// What serde says.
        source: serde_json::Error,
    },
    /// The payload is absent.
    #[error("`{0}` needs a payload")]
    PayloadMissing(String),
    /// Neither `id` nor `payload.requestId` names the call.
    #[error("`{0}` needs a request id, in `payload.requestId` or in `id`")]
    RequestIdMissing(String),
    /// A name breaks its rule.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// A topic breaks its rule.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
    /// A message that this version does not know.
    #[error("message type `{0}` is not supported")]
    Unsupported(String),
}

// === impl Frame ===

impl Frame {
    /// Reads one message and tells its sender's dialect.
    ///
    /// # Errors
    /// [`Error`]: the connection goes on, the sender gets a `call.error` or an `__error`.
    pub fn decode(message: &Bytes) -> Result<(Self, Dialect), Error> {
        let envelope = Envelope::read(message).map_err(|e| Error {
            request_id: None,
            kind: e.into(),
        })?;
        let dialect = if envelope.id.is_empty() {
            Dialect::Payload
        } else {
            Dialect::Id
        };
        let frame = match envelope.kind.as_str() {
            "call.requested" | "call.responded" | "call.completed" | "call.aborted" | "call.error" => {
                decode::call(&envelope)?
            }
            "hub.register" => decode::register(&envelope)?,
            kind if kind.starts_with("__") => {
                decode::control(&envelope).map_err(|kind| Error { request_id: None, kind })?
            }
            _ => {
                envelope::limit(envelope.payload.as_ref()).map_err(|e| Error {
                    request_id: None,
                    kind: e.into(),
                })?;
                Self::Event(envelope)
            }
        };
        Ok((frame, dialect))
    }
}

// === impl Requested ===

impl Requested {
    /// The request with its deadline as time left by this host's clock, `now_ms` milliseconds after the epoch.
    pub fn into_request(self, now_ms: u64) -> CallRequest {
        let left = self
            .timeout_ms
            .or_else(|| self.deadline_ms.map(|end| end.saturating_sub(now_ms)));
        CallRequest {
            request_id: self.request_id,
            operation: self.operation,
            input: self.input,
            timeout: left.map(Duration::from_millis),
            idle_timeout: self.idle_timeout_ms.map(Duration::from_millis),
            parent: self.parent,
            target: self.target,
            traceparent: self.traceparent,
        }
    }
}

// === impl Error ===

impl Error {
    /// The answer to the sender.
    pub fn to_call_error(&self) -> CallError {
        let code = match &self.kind {
            ErrorKind::Envelope(envelope::Error::TooLarge { .. }) => Code::PayloadTooLarge,
            ErrorKind::Unsupported(_) => Code::Unsupported,
            ErrorKind::Envelope(_)
            | ErrorKind::Payload { .. }
            | ErrorKind::PayloadMissing(_)
            | ErrorKind::RequestIdMissing(_)
            | ErrorKind::Name(_)
            | ErrorKind::Topic(_) => Code::BadRequest,
        };
        CallError::new(code, self.to_string())
    }
}

#[cfg(test)]
mod tests;
