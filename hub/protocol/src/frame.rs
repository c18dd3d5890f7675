//! Frames: what one WebSocket message means, in both dialects of the origin.
//!
//! The origin's processes send call events with `id: ""` and the request id inside the payload; its successor puts
//! the request id into `id`. Both are read; a peer is answered in the [`Dialect`] of its first frame.
//!
//! Reading is [`Frame::decode`]; writing is one function for each message in [`encode`], which copies payloads and
//! never parses them again.

pub mod encode;

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::{CallRequest, Delivered};
use crate::envelope::{self, Envelope, present};
use crate::id::InvalidId;
use crate::topic::{InvalidTopic, TopicFilter, TopicRequest};
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
    /// Why: `overflow`, `reconnected` or `resume_unavailable`.
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallPayload<'a> {
    #[serde(borrow, default)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    operation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    input: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parent_request_id: Option<Cow<'a, str>>,
    #[serde(default)]
    deadline: Option<u64>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    idle_timeout: Option<u64>,
    #[serde(default)]
    target: Option<Target>,
    #[serde(borrow, default)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    details: Option<&'a RawValue>,
    #[serde(default)]
    retryable: bool,
    #[serde(default)]
    delivered: Option<Delivered>,
    #[serde(default)]
    retry_after_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    #[serde(default)]
    spoke_id: Option<crate::SpokeName>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
}

// === impl Frame ===

impl Frame {
    /// Reads one message and tells its sender's dialect.
    ///
    /// # Errors
    /// [`Error`]: the connection goes on, the sender gets a `call.error` or an `__error`.
    pub fn decode(message: &Bytes) -> Result<(Self, Dialect), Error> {
        let envelope = Envelope::decode(message).map_err(|e| Error {
            request_id: None,
            kind: e.into(),
        })?;
        let dialect = if envelope.id.is_empty() {
            Dialect::Payload
        } else {
            Dialect::Id
        };
        let frame = match envelope.kind.as_str() {
            "call.requested" | "call.responded" | "call.completed" | "call.aborted" | "call.error" => call(&envelope)?,
            "hub.register" => register(&envelope)?,
            kind if kind.starts_with("__") => control(&envelope).map_err(|kind| Error { request_id: None, kind })?,
            _ => Self::Event(envelope),
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

fn call(envelope: &Envelope) -> Result<Frame, Error> {
    let message = || envelope.kind.clone();
    let from_id = || envelope.id.parse::<RequestId>().ok();
    let fail = |request_id, kind| Error { request_id, kind };
    let payload = match &envelope.payload {
        Some(payload) => payload.bytes(),
        None => return Err(fail(from_id(), ErrorKind::PayloadMissing(message()))),
    };
    let body: CallPayload<'_> = serde_json::from_slice(&payload).map_err(|source| {
        fail(
            from_id(),
            ErrorKind::Payload {
                message: message(),
                source,
            },
        )
    })?;
    let id = body.request_id.as_deref().unwrap_or(&envelope.id);
    if id.is_empty() {
        return Err(fail(None, ErrorKind::RequestIdMissing(message())));
    }
    let request_id: RequestId = id.parse().map_err(|e: InvalidId| fail(None, e.into()))?;
    let raw = |raw: Option<&RawValue>| raw.map(|raw| RawJson::slice_of(&payload, raw));
    Ok(match envelope.kind.as_str() {
        "call.requested" => {
            let requested = requested(request_id.clone(), &body, raw(body.input));
            Frame::Requested(requested.map_err(|kind| fail(Some(request_id), kind))?)
        }
        "call.responded" => Frame::Responded {
            request_id,
            output: raw(body.output).unwrap_or_else(RawJson::null),
        },
        "call.completed" => Frame::Completed { request_id },
        "call.aborted" => Frame::Aborted { request_id },
        _ => Frame::Failed {
            request_id,
            error: failure(&body, raw(body.details)),
        },
    })
}

fn requested(request_id: RequestId, body: &CallPayload<'_>, input: Option<RawJson>) -> Result<Requested, ErrorKind> {
    let parent = body
        .parent_request_id
        .as_deref()
        .filter(|id| !id.is_empty())
        .map(str::parse)
        .transpose()?;
    Ok(Requested {
        request_id,
        operation: body.operation_id.as_deref().unwrap_or("").parse()?,
        input: input.unwrap_or_else(RawJson::null),
        deadline_ms: body.deadline,
        timeout_ms: body.timeout_ms,
        idle_timeout_ms: body.idle_timeout,
        parent,
        target: body.target.as_ref().and_then(|target| target.spoke_id.clone()),
        traceparent: body
            .metadata
            .as_ref()
            .and_then(|m| m.traceparent.as_deref())
            .map(str::to_owned),
    })
}

fn failure(body: &CallPayload<'_>, details: Option<RawJson>) -> CallError {
    let code = body.code.as_deref().unwrap_or("").parse().unwrap_or(Code::UnknownError);
    let code = if code == Code::Domain(String::new()) {
        Code::UnknownError
    } else {
        code
    };
    CallError {
        code,
        message: body
            .message
            .as_deref()
            .unwrap_or("the spoke gave no message")
            .to_owned(),
        details,
        retryable: body.retryable,
        delivered: body.delivered.unwrap_or(Delivered::Yes),
        retry_after_ms: body.retry_after_ms,
        declared_status: None,
    }
}

/// `hub.register` as a message: the same as a call of the operation `hub.register` with the payload as its input.
fn register(envelope: &Envelope) -> Result<Frame, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Id {
        #[serde(default)]
        request_id: Option<String>,
    }
    let fail = |kind| Error {
        request_id: envelope.id.parse().ok(),
        kind,
    };
    let Some(input) = envelope.payload.clone() else {
        return Err(fail(ErrorKind::PayloadMissing(envelope.kind.clone())));
    };
    let inner: Id = input.to().map_err(|source| {
        fail(ErrorKind::Payload {
            message: envelope.kind.clone(),
            source,
        })
    })?;
    let id = inner.request_id.as_deref().unwrap_or(&envelope.id);
    let id = if id.is_empty() { "hub.register" } else { id };
    let request_id = id.parse().map_err(|e: InvalidId| fail(e.into()))?;
    let operation = "hub.register".parse().expect("a valid name");
    Ok(Frame::Requested(Requested {
        request_id,
        operation,
        input,
        deadline_ms: None,
        timeout_ms: None,
        idle_timeout_ms: None,
        parent: None,
        target: None,
        traceparent: None,
    }))
}

fn control(envelope: &Envelope) -> Result<Frame, ErrorKind> {
    let message = || envelope.kind.clone();
    fn read<T: serde::de::DeserializeOwned>(envelope: &Envelope) -> Result<T, ErrorKind> {
        let payload = envelope
            .payload
            .as_ref()
            .ok_or_else(|| ErrorKind::PayloadMissing(envelope.kind.clone()))?;
        payload.to().map_err(|source| ErrorKind::Payload {
            message: envelope.kind.clone(),
            source,
        })
    }
    let topic = || read::<TopicRequest>(envelope);
    Ok(match envelope.kind.as_str() {
        "__subscribe" => Frame::Subscribe(topic()?.filter()?),
        "__unsubscribe" => Frame::Unsubscribe(topic()?.filter()?),
        "__subscribed" => Frame::Subscribed(topic()?.filter()?.to_string()),
        "__unsubscribed" => Frame::Unsubscribed(topic()?.filter()?.to_string()),
        "__gap" => Frame::Gap(read(envelope)?),
        "__error" => Frame::Refused(read(envelope)?),
        _ => return Err(ErrorKind::Unsupported(message())),
    })
}

#[cfg(test)]
mod tests;
