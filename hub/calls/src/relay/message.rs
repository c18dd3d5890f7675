//! What hubs say to each other of calls: one line with a [`Header`], then a frame where there is one.
//!
//! Invariants
//! - What is added to a header may be missing: the other hub may be of the version before.

use alkhub_protocol::frame::{self, Requested};
use alkhub_protocol::json::strict;
use alkhub_protocol::{Frame, HubId, InstanceId, SpokeName};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a message says.
#[derive(Debug)]
pub(crate) enum Message {
    /// To the holder: a call for one registration.
    Call {
        asked: Asked,
        to: Destination,
        requested: Box<Requested>,
    },
    /// To the holder: the caller left, or the deadline passed.
    Abort { from: HubId, key: u64 },
    /// Back: what the spoke said, or why the holder has no answer; with the number of items sent before.
    Answer {
        said: Asked,
        items: u64,
        /// Whether the holder has ended the call with it; an older hub does not say so.
        is_end: bool,
        /// To be read by [`answer`]: its size is the spoke's choice.
        frame: Bytes,
    },
    /// Back: so many items were sent until now.
    Mark { said: Asked, items: u64 },
    /// Back: no such call runs here.
    Unknown { said: Asked },
    /// Both ways: which calls between the two hubs the sender knows.
    Known { from: HubId, known: Box<Known> },
    /// Back: the registration is not here.
    Moved { said: Asked },
}

/// A call between two hubs: with the one of them, by the key of the caller's hub, sent for the nth time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The other hub.
    pub(crate) hub: HubId,
    pub(crate) key: u64,
    /// How often the call had been sent again before; `None` where a hub of an older version says it.
    pub(crate) attempt: Option<u8>,
}

/// Which calls between two hubs one of them knows, by the keys of their callers' hubs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Known {
    /// Its own, which it sent to the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) mine: Vec<u64>,
    /// How often each of these had been sent again; nothing, where an older hub says it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) attempts: Vec<u8>,
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
pub(super) struct Header {
    /// The hub that sends this message.
    pub(super) from: HubId,
    /// The key of the caller's hub; 0 where it is about no single call.
    pub(super) key: u64,
    pub(super) way: Way,
    /// How often the call had been sent again: what concerns one attempt says nothing of the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<u8>,
    /// Whether the holder has ended the call with this.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) end: bool,
    /// Items sent back before this.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) items: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Destination>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) known: Option<Box<Known>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// Towards the spoke.
    Out,
    /// Towards the caller.
    Back,
    Moved,
    Mark,
    Unknown,
    Known,
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
            attempt,
            end: is_end,
            items,
            to,
            known,
        } = strict::from_slice(&message[..end])?;
        let said = Asked {
            hub: from,
            key,
            attempt,
        };
        match (way, known) {
            (Way::Moved, _) => return Ok(Self::Moved { said }),
            (Way::Mark, _) => return Ok(Self::Mark { said, items }),
            (Way::Unknown, _) => return Ok(Self::Unknown { said }),
            (Way::Known, Some(known)) => return Ok(Self::Known { from: said.hub, known }),
            (Way::Known, None) => return Err(Error::Unexpected),
            (Way::Back, _) => {
                let frame = message.slice(end + 1..);
                return Ok(Self::Answer {
                    said,
                    items,
                    is_end,
                    frame,
                });
            }
            (Way::Out, _) => {}
        }
        let (frame, _) = Frame::decode(&message.slice(end + 1..))?;
        match (frame, to) {
            (Frame::Requested(requested), Some(to)) => Ok(Self::Call {
                asked: said,
                to,
                requested: Box::new(requested),
            }),
            (Frame::Aborted { .. }, _) => Ok(Self::Abort { from: said.hub, key }),
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

pub(super) fn encoded(header: &Header, frame: &[u8]) -> Bytes {
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(end: &bool) -> bool {
    !*end
}
