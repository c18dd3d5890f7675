//! The messages between hubs about calls: one line, then a frame if there is one.
//!
//! ```text
//! call {key} {attempt} {id} {root} {parent or -} {generation} {spoke} {instance} {detach?} {lost?}\n{call.requested}
//! answer {key} {attempt}\n{call.responded, call.completed, call.error or call.aborted}
//! abort {key}\n
//! moved {key} {attempt}\n{here?}
//! late {key} {spoke} {instance}\n{call.responded or call.error}
//! ask {key} {generation} {spoke} {instance}\n
//! callable {key} {yes or no}\n
//! ```
//!
//! `here` says that the registration is on that hub, but somebody else is to take the call first if anybody can.
//!
//! `late` comes from the hub that an instance has come to, and is about a call that the instance got from a hub which
//! is gone.
//!
//! The last two are about a registration: can it be called through the other hub? The key is that of the hub that asks.
//!
//! A line that begins with `session` is that of a [`SessionMessage`].
//!
//! `detach` says that the call goes on without its caller ([`OnDisconnect`]). `lost` says that it was sent again once
//! because a spoke that may have got it was lost, which does not keep the holder from giving it back. The key is the
//! one by which the caller's hub knows the call, whichever of the two hubs sends the message.

mod header;
#[cfg(test)]
mod tests;

use alkhub_protocol::frame::{self, Requested};
use alkhub_protocol::{Frame, HubId, InstanceId, OnDisconnect, SpokeName};
use bytes::Bytes;

use self::header::LINE_LIMIT;
pub(crate) use self::header::{Destination, Header};
use crate::leg::call_id::CallId;
use crate::session::message::{self as session_message, SessionMessage};

/// What follows the line of a call that is given back and can come again. A hub that does not know these words reads
/// only the line.
const READY: &[u8] = b"ready";
const RECONNECTING: &[u8] = b"reconnecting";

/// The state of a registration on the hub that gives back a call for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegistrationStanding {
    /// It is gone.
    Gone,
    /// It takes the call again if nobody else does.
    Ready,
    /// The same, but its connection is lost.
    Reconnecting,
}

/// The content of a message.
#[derive(Debug)]
pub(crate) enum RelayMessage {
    /// To the holder: a call for one registration.
    Call {
        call: RelayedCall,
        requested: Box<Requested>,
    },
    /// To the holder: the caller has left, or the deadline has passed.
    Abort { from: HubId, key: u64 },
    /// Back: what the spoke answered, or why the holder has no answer. To be read by [`answer`], because its size is up
    /// to the spoke.
    Answer { call: RemoteCall, frame: Bytes },
    /// Back: the registration is gone; or it is here, and somebody else is to take the call if anybody can.
    Moved {
        call: RemoteCall,
        standing: RegistrationStanding,
    },
    /// To the caller's hub: the answer of an instance that has come to another hub than the one from which it got the
    /// call.
    Late {
        key: u64,
        spoke: SpokeName,
        instance: InstanceId,
        frame: Bytes,
    },
    /// About a session that moves.
    Session { from: HubId, message: SessionMessage },
    /// A hub asks to be told when one of its registrations can be called here.
    Ask { from: HubId, key: u64, about: Destination },
    /// Back: it can be called, or it cannot and never will.
    Callable { from: HubId, key: u64, can: bool },
}

/// A call between this hub and another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteCall {
    /// The other hub.
    pub(crate) hub: HubId,
    /// The key by which the caller's hub knows it.
    pub(crate) key: u64,
    /// How often the call had already been sent again.
    pub(crate) attempt: u8,
}

/// A call on its way to the holder, without what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayedCall {
    pub(crate) remote: RemoteCall,
    pub(crate) id: CallId,
    pub(crate) to: Destination,
    pub(crate) on_disconnect: OnDisconnect,
    /// Whether one of the attempts before was lost with its spoke.
    pub(crate) was_lost: bool,
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the message has no valid header")]
    Header,
    #[error("the frame is not valid: {0}")]
    Frame(#[from] frame::Error),
    #[error("the frame does not belong into a relayed message")]
    Unexpected,
}

// === impl RegistrationStanding ===

impl RegistrationStanding {
    /// What follows the line.
    pub(super) fn written(self) -> &'static [u8] {
        match self {
            Self::Gone => &[],
            Self::Ready => READY,
            Self::Reconnecting => RECONNECTING,
        }
    }

    fn read(rest: &[u8]) -> Self {
        match rest {
            READY => Self::Ready,
            RECONNECTING => Self::Reconnecting,
            _ => Self::Gone,
        }
    }
}

// === impl RelayedCall ===

impl RelayedCall {
    /// Whether the holder may give it back: nobody had got it yet whenever it was sent again, but for a loss.
    pub(crate) fn may_come_back(&self) -> bool {
        self.remote.attempt == u8::from(self.was_lost)
    }
}

// === impl RelayMessage ===

impl RelayMessage {
    /// Reads a message from a hub; payloads share its bytes.
    pub(crate) fn decode(from: HubId, message: &Bytes) -> Result<Self, Error> {
        let start = &message[..message.len().min(LINE_LIMIT)];
        let end = start.iter().position(|&byte| byte == b'\n').ok_or(Error::Header)?;
        let line = std::str::from_utf8(&start[..end]).map_err(|_| Error::Header)?;
        let frame = message.slice(end + 1..);
        if let Some(line) = line.strip_prefix(session_message::WORD) {
            let message = SessionMessage::decode(line, frame).ok_or(Error::Header)?;
            return Ok(Self::Session { from, message });
        }
        let remote = |key, attempt| RemoteCall {
            hub: from.clone(),
            key,
            attempt,
        };
        Ok(match Header::decode(line).ok_or(Error::Header)? {
            Header::Call {
                key,
                attempt,
                id,
                to,
                on_disconnect,
                was_lost,
            } => Self::Call {
                call: RelayedCall {
                    remote: remote(key, attempt),
                    id,
                    to,
                    on_disconnect,
                    was_lost,
                },
                requested: match Frame::decode(&frame)?.0 {
                    Frame::Requested(requested) => Box::new(requested),
                    _ => return Err(Error::Unexpected),
                },
            },
            Header::Abort { key } => Self::Abort { from, key },
            Header::Answer { key, attempt } => Self::Answer {
                call: remote(key, attempt),
                frame,
            },
            Header::Moved { key, attempt } => Self::Moved {
                call: remote(key, attempt),
                standing: RegistrationStanding::read(&frame),
            },
            Header::Late { key, spoke, instance } => Self::Late {
                key,
                spoke,
                instance,
                frame,
            },
            Header::Ask { key, about } => Self::Ask { from, key, about },
            Header::Callable { key, can } => Self::Callable { from, key, can },
        })
    }
}

/// Reads what came back for a call.
pub(crate) fn answer(frame: &Bytes) -> Result<Frame, Error> {
    match Frame::decode(frame)?.0 {
        frame @ (Frame::Responded { .. } | Frame::Completed { .. } | Frame::Failed { .. } | Frame::Aborted { .. }) => {
            Ok(frame)
        }
        _ => Err(Error::Unexpected),
    }
}
