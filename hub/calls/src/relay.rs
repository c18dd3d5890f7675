//! The messages between the hub of a caller and the hub that holds the spoke.
//!
//! A message is one line with a [`Header`] and, except for `moved`, a frame of the protocol: payloads are copied as
//! they are and parsed by nobody. Both ends name a call by the caller's hub and that hub's key. The frame of a call says
//! who asks, as the caller's hub knows it from the key.
//!
//! Invariants
//! - A call is forwarded once: a holder without the instance, or with another generation of it, answers `moved`.
//! - Nothing waits here but the ends of calls ([`Late`]): any other message that cannot be queued is told to whoever
//!   sent it.
//! - What goes back tells how many items were sent before it, so that a missing one is noticed.

use std::sync::Arc;

use alkhub_events::Cluster;
use alkhub_protocol::frame::encode;
use alkhub_protocol::frame::{self, Requested};
use alkhub_protocol::{Dialect, Frame, HubId, InstanceId, RawJson, SpokeName};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::directory::Instance;
use crate::late::{Late, LateEnd};
use crate::metrics::{Direction, Metrics};
use crate::sink::{End, Took};

/// Sends to other hubs.
#[derive(Debug)]
pub(crate) struct Relay {
    cluster: Cluster,
    hub: HubId,
    metrics: Arc<Metrics>,
    /// Ends that could not leave.
    pub(crate) late: Late,
}

/// The way back of a relayed call.
#[derive(Debug)]
pub(crate) struct Return {
    relay: Arc<Relay>,
    to: HubId,
    key: u64,
    /// Items sent so far.
    items: u64,
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
    /// Back: what the spoke said, or why the holder has no answer; with the number of items sent before.
    Answer {
        from: HubId,
        key: u64,
        items: u64,
        /// To be read by [`answer`]: its size is the spoke's choice.
        frame: Bytes,
    },
    /// Back: so many items were sent until now.
    Mark { from: HubId, key: u64, items: u64 },
    /// Back: no such call runs here.
    Unknown { from: HubId, key: u64 },
    /// Both ways: which calls between the two hubs the sender knows.
    Known { from: HubId, known: Box<Known> },
    /// Back: the registration is not here.
    Moved { from: HubId, key: u64 },
}

/// Which calls between two hubs one of them knows, by the keys of their callers' hubs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Known {
    /// Its own, which it sent to the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) mine: Vec<u64>,
    /// The other's, which it holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) held: Vec<u64>,
    /// Whether it is an answer, which wants none.
    pub(crate) is_answer: bool,
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
    /// The key of the caller's hub; 0 where it is about no single call.
    key: u64,
    way: Way,
    /// Items sent back before this.
    #[serde(default, skip_serializing_if = "is_zero")]
    items: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Destination>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known: Option<Box<Known>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    /// Towards the spoke.
    Out,
    /// Towards the caller.
    Back,
    Moved,
    Mark,
    Unknown,
    Known,
}

// === impl Relay ===

impl Relay {
    pub(crate) fn new(cluster: Cluster, hub: HubId, metrics: Arc<Metrics>) -> Self {
        Self {
            cluster,
            hub,
            metrics,
            late: Late::default(),
        }
    }

    /// Sends a call to the hub that holds the instance.
    pub(crate) fn call(&self, call: &Call, input: &RawJson, instance: &Instance) -> Result<(), NotSent> {
        let entry = &instance.entry;
        let destination = Destination {
            spoke: entry.spoke.clone(),
            instance: entry.instance.clone(),
            generation: entry.generation,
        };
        let identity = call.identity();
        let options = call.options(identity.as_ref());
        let id = call.key.to_string();
        let frame = encode::call_requested(Dialect::Payload, &id, &call.operation.name, input, &options);
        let header = Header {
            to: Some(destination),
            ..self.header(call.key, Way::Out)
        };
        self.send(&entry.hub, &header, &frame)
    }

    /// Tells the holder to end a call.
    pub(crate) fn abort(&self, to: &HubId, key: u64, reason: &str) -> Result<(), NotSent> {
        let frame = encode::call_aborted(Dialect::Payload, &key.to_string(), Some(reason));
        self.send(to, &self.header(key, Way::Out), &frame)
    }

    /// Tells the caller's hub that the registration is not here.
    pub(crate) fn moved(&self, to: &HubId, key: u64) -> Result<(), NotSent> {
        self.send(to, &self.header(key, Way::Moved), &[])
    }

    /// Tells the caller's hub that no such call runs here.
    pub(crate) fn unknown(&self, to: &HubId, key: u64) -> Result<(), NotSent> {
        self.send(to, &self.header(key, Way::Unknown), &[])
    }

    /// Tells another hub which calls between it and this one are known here.
    pub(crate) fn known(&self, to: &HubId, known: Known) -> Result<(), NotSent> {
        let header = Header {
            known: Some(Box::new(known)),
            ..self.header(0, Way::Known)
        };
        self.send(to, &header, &[])
    }

    /// Keeps an end that did not arrive, to send it again.
    pub(crate) fn keep(&self, end: LateEnd) {
        let (hub, key) = (end.hub.clone(), end.key);
        if !self.late.keep(end) {
            tracing::warn!(hub.id = %hub, call.key = key, "an answer to another hub was lost: the link was down for too long, or too much waits");
        }
    }

    /// Sends an end again.
    pub(crate) fn send_late(&self, end: LateEnd) {
        if self.post(&end.hub, end.message.clone()).is_err() {
            self.keep(end);
        }
    }

    fn header(&self, key: u64, way: Way) -> Header {
        Header {
            from: self.hub.clone(),
            key,
            way,
            items: 0,
            to: None,
            known: None,
        }
    }

    fn send(&self, to: &HubId, header: &Header, frame: &[u8]) -> Result<(), NotSent> {
        self.post(to, encoded(header, frame))
    }

    fn post(&self, to: &HubId, message: Bytes) -> Result<(), NotSent> {
        self.metrics.relayed(Direction::Sent);
        self.cluster.send(to, message).map_err(|error| {
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
    pub(crate) fn new(relay: &Arc<Relay>, to: &HubId, key: u64) -> Self {
        Self {
            relay: Arc::clone(relay),
            to: to.clone(),
            key,
            items: 0,
        }
    }

    /// Hands an item back.
    pub(crate) fn item(&mut self, item: &RawJson) -> Took {
        let frame = encode::call_responded(Dialect::Payload, &self.key.to_string(), item);
        match self.relay.send(&self.to, &self.header(Way::Back), &frame) {
            Ok(()) => {
                self.items += 1;
                Took::Item
            }
            Err(NotSent::Full) => Took::Overflow,
            Err(NotSent::Unreachable) => Took::Unreachable,
        }
    }

    /// Tells how many items were sent. Where it cannot be told, the link's return begins the comparison anew.
    pub(crate) fn mark(&self) {
        let _ = self.relay.send(&self.to, &self.header(Way::Mark), &[]);
    }

    /// Hands the end back; where it cannot leave now, it is sent again.
    pub(crate) fn end(&self, end: &End) {
        let id = self.key.to_string();
        let frame = match end {
            End::Output(output) => encode::call_responded(Dialect::Payload, &id, output),
            End::Completed => encode::call_completed(Dialect::Payload, &id),
            End::Failed(error) => encode::call_error(Dialect::Payload, &id, error),
            End::Aborted => encode::call_aborted(Dialect::Payload, &id, None),
            End::Silent => return,
        };
        let message = encoded(&self.header(Way::Back), &frame);
        if self.relay.post(&self.to, message.clone()).is_err() {
            let (hub, key) = (self.to.clone(), self.key);
            self.relay.keep(LateEnd { hub, key, message });
        }
    }

    fn header(&self, way: Way) -> Header {
        Header {
            items: self.items,
            ..self.relay.header(self.key, way)
        }
    }
}

// === impl Message ===

impl Message {
    /// Reads a message; payloads share its bytes.
    pub(crate) fn decode(message: &Bytes) -> Result<Self, Error> {
        let end = message.iter().position(|&byte| byte == b'\n').ok_or(Error::NoHeader)?;
        let Header {
            from,
            key,
            way,
            items,
            to,
            known,
        } = serde_json::from_slice(&message[..end])?;
        match (way, known) {
            (Way::Moved, _) => return Ok(Self::Moved { from, key }),
            (Way::Mark, _) => return Ok(Self::Mark { from, key, items }),
            (Way::Unknown, _) => return Ok(Self::Unknown { from, key }),
            (Way::Known, Some(known)) => return Ok(Self::Known { from, known }),
            (Way::Known, None) => return Err(Error::Unexpected),
            (Way::Back, _) => {
                let frame = message.slice(end + 1..);
                return Ok(Self::Answer {
                    from,
                    key,
                    items,
                    frame,
                });
            }
            (Way::Out, _) => {}
        }
        let (frame, _) = Frame::decode(&message.slice(end + 1..))?;
        match (frame, to) {
            (Frame::Requested(requested), Some(to)) => Ok(Self::Call {
                from,
                key,
                to,
                requested: Box::new(requested),
            }),
            (Frame::Aborted { .. }, _) => Ok(Self::Abort { from, key }),
            _ => Err(Error::Unexpected),
        }
    }
}

/// Reads what came back of a call.
pub(crate) fn answer(frame: &Bytes) -> Result<Frame, Error> {
    match Frame::decode(frame)?.0 {
        frame @ (Frame::Responded { .. } | Frame::Completed { .. } | Frame::Failed { .. } | Frame::Aborted { .. }) => {
            Ok(frame)
        }
        _ => Err(Error::Unexpected),
    }
}

fn encoded(header: &Header, frame: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(frame.len() + 320);
    serde_json::to_writer(&mut message, header).expect("a header is a plain struct");
    message.push(b'\n');
    message.extend_from_slice(frame);
    message.into()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(items: &u64) -> bool {
    *items == 0
}

#[cfg(test)]
mod tests;
