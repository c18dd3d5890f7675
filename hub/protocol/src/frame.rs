//! Frames: what one WebSocket message means, in both dialects of the origin.
//!
//! The origin's processes send call events with `id: ""` and the request id inside the payload; its successor puts the
//! request id into `id`. Both are read, and a peer is answered in the [`Dialect`] of its first `call.requested`. No
//! other message shows the dialect: the origin's processes give a `hub.register` any id they like, and read calls in
//! the payload.
//!
//! Reading is [`Frame::decode`]; writing is one function for each message in [`encode`], which copies payloads and
//! never parses them again.
//!
//! Invariants
//! - A message that is refused still names its call, or its topic, wherever they can be read in it, however broken the
//!   rest is: nobody waits for a call, or a subscription, whose message was not understood.

mod decode;
pub mod encode;
mod glance;
pub mod kind;
pub mod session;

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::call::{CallRequest, Identity, InvalidMetadata, Metadata, OnDisconnect};
use crate::envelope::{self, Borrowed, Envelope};
use crate::id::InvalidId;
use crate::topic::{InvalidTopic, TopicFilter};
use crate::{
    CallError, Code, DEPTH_LIMIT, FRAME_DEPTH_LIMIT, FRAME_LIMIT_BYTES, OperationName, RawJson, RequestId, json,
};
use session::{Hello, Migrate, Resume, Welcome};

/// Longest reason for a broken message, in characters.
const MESSAGE_LIMIT: usize = 500;

/// Where a peer puts the request id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// In the payload, with an empty `id`, as the origin does.
    #[default]
    Payload,
    /// In the envelope's `id` (and harmlessly also in the payload), as the origin's successor does.
    Id,
}

/// What one message asks for or reports.
#[derive(Clone, Debug)]
pub enum Frame {
    /// `call.requested`, or `hub.register` or `hub.register.update` as a message of its own.
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
    /// `__hello`: a peer asks for more than a plain one gets.
    Hello(Box<Hello>),
    /// `__welcome`: what it is granted; only a hub sends it.
    Welcome(Box<Welcome>),
    /// `__resume`: a session goes on; only a hub sends it.
    Resumed(Resume),
    /// `__ack`: this many messages of the session were received.
    Acknowledged(u64),
    /// `__hubs`: this many hubs take connections; only a hub sends it.
    Hubs(u32),
    /// `__ping`: asks for a sign of life, with a payload that the answer repeats.
    Ping(Option<RawJson>),
    /// `__pong`: the sign of life.
    Pong(Option<RawJson>),
    /// `hub.migrate`: the peer is to go on with its session on another hub; only a hub sends it.
    Migrate(Box<Migrate>),
    /// An event.
    Event(Envelope),
}

/// A `call.requested` as it is on the wire.
#[derive(Clone, Debug)]
pub struct Requested {
    /// The caller's id.
    pub request_id: RequestId,
    /// What to call.
    pub operation: OperationName,
    /// The input; `None` when absent, which a spoke of the origin distinguishes from `null`.
    pub input: Option<RawJson>,
    /// For calls: the absolute end in milliseconds since the epoch, by the caller's clock.
    pub deadline_ms: Option<u64>,
    /// For calls: the time left in milliseconds; takes precedence over `deadline_ms`.
    pub timeout_ms: Option<u64>,
    /// For subscriptions: the longest silence between items, in milliseconds.
    pub idle_timeout_ms: Option<u64>,
    /// The call during which this one is made.
    pub parent: Option<RequestId>,
    /// The spoke that must answer.
    pub target: Option<crate::SpokeName>,
    /// W3C trace context, from `metadata.traceparent`.
    pub traceparent: Option<String>,
    /// All of `metadata`.
    pub metadata: Option<Box<Metadata>>,
    /// Who calls, as the hub says; never read from a peer, whose identity comes from its key.
    pub identity: Option<Box<Identity>>,
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

/// Why a message is refused, with the call or the topic that it was about, as far as that could be read.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct Error {
    /// The call that the message is about, if it named one.
    pub call: Option<Named>,
    /// The topic that it is about: the one to subscribe to, or where the event would have been published. It may be
    /// invalid.
    pub topic: Option<String>,
    /// Whether it counts among the messages of a session ([`session::counts`]).
    pub counts: bool,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// The call that a refused message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub request_id: RequestId,
    /// Where the message has the id; `None` if its type does not decide that.
    pub dialect: Option<Dialect>,
    /// Whether the message asks for the call; otherwise it is about a running one.
    pub asks: bool,
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
        /// The error of serde.
        source: serde_json::Error,
    },
    /// The payload is not a JSON object.
    #[error("payload of `{0}` is not valid: expected a JSON object")]
    PayloadShape(String),
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
    /// The metadata breaks its rule.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// A message type that this version does not know.
    #[error("message type `{0}` is not supported")]
    Unsupported(String),
    /// A way of choosing a spoke that this version does not have.
    #[error("`target.{0}` is not supported: a call can be sent to `target.spokeId` only")]
    UnsupportedTarget(String),
}

// === impl Frame ===

impl Frame {
    /// Reads a message from a hub; also returns its sender's dialect if it is one of the `call.*` messages.
    ///
    /// # Errors
    /// [`Error`]: the connection continues.
    pub fn decode(message: &Bytes) -> Result<(Self, Option<Dialect>), Error> {
        Self::decode_within(message, |_| FRAME_DEPTH_LIMIT)
    }

    /// The same for a peer that is not a hub: none of its values may nest deeper than [`DEPTH_LIMIT`].
    ///
    /// # Errors
    /// [`Error`]: the connection continues, and the sender gets a `call.error` or an `__error`.
    pub fn decode_of_peer(message: &Bytes) -> Result<(Self, Option<Dialect>), Error> {
        let (mut frame, dialect) = Self::decode_within(message, |kind| {
            let around = match kind {
                // The envelope, the payload, and `{data, meta}` in it.
                kind::RESPONDED => 3,
                kind if kind.starts_with(kind::OF_CALLS) => 2,
                _ => 1,
            };
            DEPTH_LIMIT + around
        })?;
        if let Self::Requested(requested) = &mut frame {
            requested.identity = None;
        }
        Ok((frame, dialect))
    }

    /// Whether it counts among the messages of a session.
    pub fn counts(&self) -> bool {
        match self {
            Self::Hello(_)
            | Self::Welcome(_)
            | Self::Resumed(_)
            | Self::Acknowledged(_)
            | Self::Hubs(_)
            | Self::Ping(_)
            | Self::Pong(_)
            | Self::Migrate(_) => false,
            Self::Requested(_)
            | Self::Responded { .. }
            | Self::Completed { .. }
            | Self::Aborted { .. }
            | Self::Failed { .. }
            | Self::Subscribe(_)
            | Self::Unsubscribe(_)
            | Self::Subscribed(_)
            | Self::Unsubscribed(_)
            | Self::Gap(_)
            | Self::Refused(_)
            | Self::Event(_) => true,
        }
    }

    fn decode_within(message: &Bytes, depth: fn(&str) -> usize) -> Result<(Self, Option<Dialect>), Error> {
        Self::read(message, depth).map_err(|kind| Error::about(message, kind))
    }

    fn read(message: &Bytes, limit: fn(&str) -> usize) -> Result<(Self, Option<Dialect>), ErrorKind> {
        let (envelope, depth) = Borrowed::read(message)?;
        if depth > limit(&envelope.kind) {
            return Err(envelope::Error::from(json::Error::TooDeep).into());
        }
        let dialect = Dialect::of(&envelope.kind, &envelope.id);
        let frame = match &*envelope.kind {
            kind::REQUESTED | kind::RESPONDED | kind::COMPLETED | kind::ABORTED | kind::FAILED => {
                decode::call(&envelope)?
            }
            kind::REGISTER | kind::REGISTER_UPDATE => decode::register(&envelope)?,
            kind::MIGRATE => decode::control(&envelope)?,
            kind if kind.starts_with(kind::OF_CONTROL) => decode::control(&envelope)?,
            _ => {
                envelope::limit(envelope.payload.as_ref())?;
                Self::Event(envelope.into_owned())
            }
        };
        Ok((frame, dialect))
    }
}

// === impl Dialect ===

impl Dialect {
    /// The dialect of a peer that writes this `id` into a message of this type; only messages of the call protocol show
    /// it.
    fn of(kind: &str, id: &str) -> Option<Self> {
        let dialect = if id.is_empty() { Self::Payload } else { Self::Id };
        kind.starts_with(kind::OF_CALLS).then_some(dialect)
    }
}

// === impl Requested ===

impl Requested {
    /// The request with its deadline converted to time left by this host's clock, `now_ms` milliseconds after the
    /// epoch.
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
            metadata: self.metadata.map(|metadata| *metadata),
            on_disconnect: OnDisconnect::default(),
        }
    }
}

// === impl Error ===

impl Error {
    /// A refusal that names what the message was about, as far as that can be read.
    fn about(message: &[u8], kind: ErrorKind) -> Self {
        let glance::About { call, topic, counts } = glance::about(message);
        Self {
            call,
            topic,
            counts,
            kind,
        }
    }

    /// The refusal of a message of `size` bytes, over [`FRAME_LIMIT_BYTES`], that begins with `head`.
    pub fn too_large(head: &[u8], size: usize) -> Self {
        let limit = FRAME_LIMIT_BYTES;
        Self::about(head, envelope::Error::TooLarge { size, limit }.into())
    }

    /// The answer to the sender.
    pub fn to_call_error(&self) -> CallError {
        let code = match &self.kind {
            ErrorKind::Envelope(envelope::Error::TooLarge { .. })
            | ErrorKind::Metadata(InvalidMetadata::TooLarge(_)) => Code::PayloadTooLarge,
            ErrorKind::Unsupported(_) | ErrorKind::UnsupportedTarget(_) => Code::Unsupported,
            ErrorKind::Envelope(_)
            | ErrorKind::Payload { .. }
            | ErrorKind::PayloadShape(_)
            | ErrorKind::PayloadMissing(_)
            | ErrorKind::RequestIdMissing(_)
            | ErrorKind::Name(_)
            | ErrorKind::Metadata(InvalidMetadata::NoObject)
            | ErrorKind::Topic(_) => Code::BadRequest,
        };
        // Some of these texts repeat what the peer wrote, which may be long.
        let message: String = self.to_string().chars().take(MESSAGE_LIMIT).collect();
        CallError::new(code, message)
    }
}

#[cfg(test)]
mod tests;
