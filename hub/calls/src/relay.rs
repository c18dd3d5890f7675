//! The messages between the hub of a caller and the hub that holds the spoke.
//!
//! A message is one line with a [`Header`] and, except for `moved`, a frame of the protocol: payloads are copied as
//! they are and parsed by nobody. Both ends name a call by the caller's hub and that hub's key.
//!
//! Invariants
//! - A call is forwarded once: a holder without the instance, or with another generation of it, answers `moved`.
//! - Nothing waits here: a message that cannot be queued is told to whoever sent it.

use std::sync::Arc;

use alkhub_events::Cluster;
use alkhub_protocol::frame::encode;
use alkhub_protocol::frame::{self, Requested};
use alkhub_protocol::{Dialect, Frame, HubId, InstanceId, RawJson, SpokeName};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::directory::Instance;
use crate::metrics::{Direction, Metrics};
use crate::sink::{End, Took};

/// Sends to other hubs.
#[derive(Debug)]
pub(crate) struct Relay {
    cluster: Cluster,
    hub: HubId,
    metrics: Arc<Metrics>,
}

/// The way back of a relayed call.
#[derive(Debug)]
pub(crate) struct Return {
    pub(crate) relay: Arc<Relay>,
    pub(crate) to: HubId,
    pub(crate) key: u64,
}

/// Why a message did not leave this hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// Too much waits to be sent.
    Full,
    /// The link to the other hubs is down.
    Unreachable,
}

/// What a message says.
#[derive(Debug)]
pub(crate) enum Message {
    /// To the holder: a call for one registration.
    Call {
        from: HubId,
        key: u64,
        to: Destination,
        requested: Box<Requested>,
    },
    /// To the holder: the caller left, or the deadline passed.
    Abort { from: HubId, key: u64 },
    /// Back: what the spoke said, or why the holder has no answer.
    Answer { from: HubId, key: u64, frame: Frame },
    /// Back: the registration is not here.
    Moved { from: HubId, key: u64 },
}

/// Why a message is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the message has no header")]
    NoHeader,
    #[error("the header is not valid: {0}")]
    Header(#[from] serde_json::Error),
    #[error("the frame is not valid: {0}")]
    Frame(#[from] frame::Error),
    #[error("the frame does not belong into a relayed message")]
    Unexpected,
}

/// The registration that a call is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Destination {
    pub(crate) spoke: SpokeName,
    pub(crate) instance: InstanceId,
    pub(crate) generation: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// The hub that sends this message.
    from: HubId,
    /// The key of the caller's hub.
    key: u64,
    way: Way,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Destination>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    /// Towards the spoke.
    Out,
    /// Towards the caller.
    Back,
    Moved,
}

// === impl Relay ===

impl Relay {
    pub(crate) fn new(cluster: Cluster, hub: HubId, metrics: Arc<Metrics>) -> Self {
        Self { cluster, hub, metrics }
    }

    /// Sends a call to the hub that holds the instance.
    pub(crate) fn call(&self, call: &Call, instance: &Instance) -> Result<(), NotSent> {
        let entry = &instance.entry;
        let destination = Destination {
            spoke: entry.spoke.clone(),
            instance: entry.instance.clone(),
            generation: entry.generation,
        };
        let options = call.clock.options(call.request.traceparent.as_deref());
        let id = call.key.to_string();
        let request = &call.request;
        let frame = encode::call_requested(Dialect::Payload, &id, &call.operation.name, &request.input, &options);
        self.send(&entry.hub, Way::Out, call.key, Some(destination), &frame)
    }

    /// Tells the holder to end a call.
    pub(crate) fn abort(&self, to: &HubId, key: u64, reason: &str) -> Result<(), NotSent> {
        let frame = encode::call_aborted(Dialect::Payload, &key.to_string(), Some(reason));
        self.send(to, Way::Out, key, None, &frame)
    }

    /// Tells the caller's hub that the registration is not here.
    pub(crate) fn moved(&self, to: &HubId, key: u64) -> Result<(), NotSent> {
        self.send(to, Way::Moved, key, None, &[])
    }

    /// Tells the caller's hub an answer.
    fn answer(&self, to: &HubId, key: u64, frame: &[u8]) -> Result<(), NotSent> {
        self.send(to, Way::Back, key, None, frame)
    }

    fn send(
        &self,
        to: &HubId,
        way: Way,
        key: u64,
        destination: Option<Destination>,
        frame: &[u8],
    ) -> Result<(), NotSent> {
        let header = Header {
            from: self.hub.clone(),
            key,
            way,
            to: destination,
        };
        let mut message = Vec::with_capacity(frame.len() + 320);
        serde_json::to_writer(&mut message, &header).expect("a header is a plain struct");
        message.push(b'\n');
        message.extend_from_slice(frame);
        self.metrics.relayed(Direction::Sent);
        self.cluster.send(to, message.into()).map_err(|error| {
            tracing::debug!(hub.id = %to, %error, "a message to another hub was not queued");
            match error {
                alkhub_events::Error::Full => NotSent::Full,
                _ => NotSent::Unreachable,
            }
        })
    }
}

// === impl Return ===

impl Return {
    /// Hands an item back.
    pub(crate) fn item(&self, item: &RawJson) -> Took {
        let frame = encode::call_responded(Dialect::Payload, &self.key.to_string(), item);
        match self.relay.answer(&self.to, self.key, &frame) {
            Ok(()) => Took::Item,
            Err(NotSent::Full | NotSent::Unreachable) => Took::Overflow,
        }
    }

    /// Hands the end back. When it cannot be queued, the caller's hub ends the call by its deadline.
    pub(crate) fn end(&self, end: &End) {
        let id = self.key.to_string();
        let frame = match end {
            End::Output(output) => encode::call_responded(Dialect::Payload, &id, output),
            End::Completed => encode::call_completed(Dialect::Payload, &id),
            End::Failed(error) => encode::call_error(Dialect::Payload, &id, error),
            End::Aborted => encode::call_aborted(Dialect::Payload, &id, None),
            End::Silent => return,
        };
        if let Err(reason) = self.relay.answer(&self.to, self.key, &frame) {
            tracing::warn!(hub.id = %self.to, call.key = self.key, ?reason, "an answer to another hub was lost");
        }
    }
}

// === impl Message ===

impl Message {
    /// Reads a message; payloads share its bytes.
    pub(crate) fn decode(message: &Bytes) -> Result<Self, Error> {
        let end = message.iter().position(|&byte| byte == b'\n').ok_or(Error::NoHeader)?;
        let Header { from, key, way, to } = serde_json::from_slice(&message[..end])?;
        if way == Way::Moved {
            return Ok(Self::Moved { from, key });
        }
        let (frame, _) = Frame::decode(&message.slice(end + 1..))?;
        match (way, frame, to) {
            (Way::Out, Frame::Requested(requested), Some(to)) => Ok(Self::Call {
                from,
                key,
                to,
                requested: Box::new(requested),
            }),
            (Way::Out, Frame::Aborted { .. }, _) => Ok(Self::Abort { from, key }),
            (
                Way::Back,
                frame @ (Frame::Responded { .. }
                | Frame::Completed { .. }
                | Frame::Failed { .. }
                | Frame::Aborted { .. }),
                _,
            ) => Ok(Self::Answer { from, key, frame }),
            _ => Err(Error::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::frame::encode::RequestOptions;

    use super::*;

    fn message(header: &Header, frame: &[u8]) -> Bytes {
        let mut text = serde_json::to_vec(header).expect("plain");
        text.push(b'\n');
        text.extend_from_slice(frame);
        text.into()
    }

    fn header(way: Way, to: Option<Destination>) -> Header {
        Header {
            from: "hub-1".parse().expect("valid"),
            key: 7,
            way,
            to,
        }
    }

    fn destination() -> Destination {
        Destination {
            spoke: "builder".parse().expect("valid"),
            instance: "i 1".replace(' ', "-").parse().expect("valid"),
            generation: 9,
        }
    }

    #[test]
    fn a_call_arrives_with_its_input_as_it_was() {
        let input = RawJson::parse(r#"{"n": 1.50, "s": "a\nb"}"#).expect("JSON");
        let name = "builder.build".parse().expect("valid");
        let options = RequestOptions {
            timeout: Some(std::time::Duration::from_secs(3)),
            traceparent: Some("00-a-b-01"),
            ..RequestOptions::default()
        };
        let frame = encode::call_requested(Dialect::Payload, "7", &name, &input, &options);

        let read = Message::decode(&message(&header(Way::Out, Some(destination())), &frame)).expect("valid");

        let Message::Call {
            from,
            key,
            to,
            requested,
        } = read
        else {
            panic!("not a call: {read:?}");
        };
        assert_eq!((from.as_str(), key, to), ("hub-1", 7, destination()));
        assert_eq!(requested.input, input);
        assert_eq!(requested.timeout_ms, Some(3000));
        assert_eq!(requested.traceparent.as_deref(), Some("00-a-b-01"));
    }

    #[test]
    fn an_abort_and_an_answer_differ_by_their_way() {
        let frame = encode::call_aborted(Dialect::Payload, "7", None);

        let out = Message::decode(&message(&header(Way::Out, None), &frame)).expect("valid");
        let back = Message::decode(&message(&header(Way::Back, None), &frame)).expect("valid");

        assert!(matches!(out, Message::Abort { key: 7, .. }));
        assert!(matches!(
            back,
            Message::Answer {
                frame: Frame::Aborted { .. },
                ..
            }
        ));
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        let event = Bytes::from_static(b"{\"type\":\"job\",\"id\":\"1\"}");
        let moved = Message::decode(&message(&header(Way::Moved, None), b"")).expect("needs no frame");

        assert!(matches!(moved, Message::Moved { key: 7, .. }));
        assert!(Message::decode(&message(&header(Way::Out, None), &event)).is_err());
        assert!(Message::decode(&Bytes::from_static(b"{}")).is_err());
        assert!(Message::decode(&Bytes::from_static(b"{}\n{}")).is_err());
    }
}
