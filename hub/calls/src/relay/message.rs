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

use alkhub_protocol::frame::{self, Requested};
use alkhub_protocol::{Frame, HubId, InstanceId, OnDisconnect, SpokeName};
use bytes::Bytes;

use crate::leg::call_id::CallId;
use crate::session::message::{self as session_message, SessionMessage};

/// The longest line: at most two names of 128 bytes, three ids of 36, three numbers and three words.
const LINE_LIMIT: usize = 512;

/// Stands in place of a parent's id.
const NO_PARENT: &str = "-";

/// Whether a registration can be called.
const YES: &str = "yes";
const NO: &str = "no";

/// What follows the line of a call that is given back and can come again. A hub that does not know these words reads
/// only the line.
const READY: &[u8] = b"ready";
const RECONNECTING: &[u8] = b"reconnecting";

/// The last word of the line of a call that goes on without its caller.
const DETACH: &str = "detach";

/// The last word of a call that was sent again after a loss.
const LOST: &str = "lost";

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

/// The registration to which a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) spoke: SpokeName,
    pub(crate) instance: InstanceId,
    pub(crate) generation: u64,
}

/// The line before the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Call {
        key: u64,
        attempt: u8,
        id: CallId,
        to: Destination,
        on_disconnect: OnDisconnect,
        was_lost: bool,
    },
    Abort {
        key: u64,
    },
    Answer {
        key: u64,
        attempt: u8,
    },
    Moved {
        key: u64,
        attempt: u8,
    },
    Late {
        key: u64,
        spoke: SpokeName,
        instance: InstanceId,
    },
    Ask {
        key: u64,
        about: Destination,
    },
    Callable {
        key: u64,
        can: bool,
    },
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

// === impl Header ===

impl Header {
    /// The line, including its end.
    pub(super) fn encode(&self) -> Vec<u8> {
        use std::fmt::Write as _;

        let mut line = String::with_capacity(LINE_LIMIT);
        let written = match self {
            Self::Call {
                key,
                attempt,
                id,
                to,
                on_disconnect,
                was_lost,
            } => {
                let CallId { id, root, parent } = id;
                let parent = parent.as_ref().map(ToString::to_string);
                let parent = parent.as_deref().unwrap_or(NO_PARENT);
                let Destination {
                    spoke,
                    instance,
                    generation,
                } = to;
                let detach = match on_disconnect {
                    OnDisconnect::Abort => "",
                    OnDisconnect::Detach => " detach",
                };
                let lost = if *was_lost { " lost" } else { "" };
                let call = format_args!("call {key} {attempt} {id} {root} {parent} {generation}");
                writeln!(line, "{call} {spoke} {instance}{detach}{lost}")
            }
            Self::Abort { key } => writeln!(line, "abort {key}"),
            Self::Answer { key, attempt } => writeln!(line, "answer {key} {attempt}"),
            Self::Moved { key, attempt } => writeln!(line, "moved {key} {attempt}"),
            Self::Late { key, spoke, instance } => writeln!(line, "late {key} {spoke} {instance}"),
            Self::Ask { key, about } => {
                let Destination {
                    spoke,
                    instance,
                    generation,
                } = about;
                writeln!(line, "ask {key} {generation} {spoke} {instance}")
            }
            Self::Callable { key, can } => writeln!(line, "callable {key} {}", if *can { YES } else { NO }),
        };
        written.expect("writing to memory cannot fail");
        line.into_bytes()
    }

    fn decode(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').peekable();
        let mut field = || fields.next();
        let header = match field()? {
            "call" => Self::Call {
                key: field()?.parse().ok()?,
                attempt: field()?.parse().ok()?,
                id: CallId {
                    id: field()?.parse().ok()?,
                    root: field()?.parse().ok()?,
                    parent: match field()? {
                        NO_PARENT => None,
                        parent => Some(parent.parse().ok()?),
                    },
                },
                to: Destination::read(&mut field)?,
                on_disconnect: match fields.next_if_eq(&DETACH) {
                    None => OnDisconnect::Abort,
                    Some(_) => OnDisconnect::Detach,
                },
                was_lost: fields.next_if_eq(&LOST).is_some(),
            },
            "abort" => Self::Abort {
                key: field()?.parse().ok()?,
            },
            "answer" => Self::Answer {
                key: field()?.parse().ok()?,
                attempt: field()?.parse().ok()?,
            },
            "moved" => Self::Moved {
                key: field()?.parse().ok()?,
                attempt: field()?.parse().ok()?,
            },
            "late" => Self::Late {
                key: field()?.parse().ok()?,
                spoke: field()?.parse().ok()?,
                instance: field()?.parse().ok()?,
            },
            "ask" => Self::Ask {
                key: field()?.parse().ok()?,
                about: Destination::read(&mut field)?,
            },
            "callable" => Self::Callable {
                key: field()?.parse().ok()?,
                can: match field()? {
                    YES => true,
                    NO => false,
                    _ => return None,
                },
            },
            _ => return None,
        };
        fields.next().is_none().then_some(header)
    }
}

// === impl Destination ===

impl Destination {
    fn read<'a>(field: &mut impl FnMut() -> Option<&'a str>) -> Option<Self> {
        Some(Self {
            generation: field()?.parse().ok()?,
            spoke: field()?.parse().ok()?,
            instance: field()?.parse().ok()?,
        })
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

#[cfg(test)]
mod tests {
    use alkhub_protocol::frame::encode::{self, RequestOptions};
    use alkhub_protocol::{Dialect, RawJson};
    use uuid::Uuid;

    use super::*;

    fn remote(attempt: u8) -> RemoteCall {
        RemoteCall {
            hub: "hub-1".parse().expect("valid"),
            key: 7,
            attempt,
        }
    }

    fn read(header: &Header, frame: &[u8]) -> Result<RelayMessage, Error> {
        let message = [&header.encode(), frame].concat();
        RelayMessage::decode(remote(0).hub, &message.into())
    }

    fn to() -> Destination {
        Destination {
            spoke: "builder".parse().expect("valid"),
            instance: "i-1/{}".parse().expect("valid"),
            generation: 9,
        }
    }

    /// The id of a call that another call led to.
    fn id() -> CallId {
        CallId {
            id: Uuid::from_u128(3),
            root: Uuid::from_u128(1),
            parent: Some(Uuid::from_u128(2)),
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
        let frame = encode::call_requested(Dialect::Payload, "7", &name, Some(&input), &options);
        let header = Header::Call {
            key: 7,
            attempt: 1,
            id: id(),
            to: to(),
            on_disconnect: OnDisconnect::Detach,
            was_lost: true,
        };

        let message = read(&header, &frame).expect("valid");

        let RelayMessage::Call { call, requested } = message else {
            panic!("not a call: {message:?}");
        };
        let sent = RelayedCall {
            remote: remote(1),
            id: id(),
            to: to(),
            on_disconnect: OnDisconnect::Detach,
            was_lost: true,
        };
        assert_eq!(call, sent);
        assert_eq!(requested.input, Some(input));
        assert_eq!(requested.timeout_ms, Some(3000));
        assert_eq!(requested.traceparent.as_deref(), Some("00-a-b-01"));
    }

    #[test]
    fn what_comes_back_names_the_attempt_and_is_read_later() {
        let frame = encode::call_aborted(Dialect::Payload, "7", None);

        let back = read(&Header::Answer { key: 7, attempt: 1 }, &frame).expect("valid");
        let moved = |rest| read(&Header::Moved { key: 7, attempt: 0 }, rest).expect("needs no frame");
        let abort = read(&Header::Abort { key: 7 }, b"").expect("needs no frame");
        let Destination { spoke, instance, .. } = to();
        let late = read(
            &Header::Late {
                key: 7,
                spoke,
                instance,
            },
            &frame,
        )
        .expect("valid");

        let RelayMessage::Answer { call, frame } = back else {
            panic!("{back:?}");
        };
        assert_eq!(call, remote(1));
        assert!(matches!(answer(&frame), Ok(Frame::Aborted { .. })));
        assert!(answer(&Bytes::from_static(b"{}")).is_err());
        for said in [
            RegistrationStanding::Gone,
            RegistrationStanding::Ready,
            RegistrationStanding::Reconnecting,
        ] {
            let moved = moved(said.written());
            assert!(matches!(moved, RelayMessage::Moved { call, standing } if call == remote(0) && standing == said));
        }
        assert!(matches!(abort, RelayMessage::Abort { from, key: 7 } if from == remote(0).hub));
        let RelayMessage::Late {
            key: 7,
            spoke,
            instance,
            frame,
        } = late
        else {
            panic!("{late:?}");
        };
        assert_eq!((spoke, instance), (to().spoke, to().instance));
        assert!(matches!(answer(&frame), Ok(Frame::Aborted { .. })));
    }

    #[test]
    fn a_question_about_a_registration_and_its_answer_name_the_hub_that_says_them() {
        let asked = read(&Header::Ask { key: 7, about: to() }, b"").expect("needs no frame");
        let answers = [true, false].map(|can| read(&Header::Callable { key: 7, can }, b"").expect("needs no frame"));

        let hub = remote(0).hub;
        let RelayMessage::Ask { from, key: 7, about } = asked else {
            panic!("{asked:?}");
        };
        assert_eq!((&from, about), (&hub, to()));
        for (answer, wanted) in answers.into_iter().zip([true, false]) {
            let RelayMessage::Callable { from, key: 7, can } = answer else {
                panic!("{answer:?}");
            };
            assert_eq!((&from, can), (&hub, wanted));
        }
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        let call = Header::Call {
            key: 7,
            attempt: 0,
            id: id(),
            to: to(),
            on_disconnect: OnDisconnect::Detach,
            was_lost: true,
        };
        let aborted = encode::call_aborted(Dialect::Payload, "7", None);
        assert!(matches!(read(&call, &aborted), Err(Error::Unexpected)));
        assert!(matches!(read(&call, b"{}"), Err(Error::Frame(_))));
        for line in [
            "",
            "\n",
            "{}",
            "{}\n{}",
            "call 7\n",
            "answer 7 256\n",
            "abort -1\n",
            "abort 7 8\n",
            "moved 7\n",
            "late 7 builder\n",
            "ask 7 9 builder\n",
            "ask 7 builder 9 i\n",
            "callable 7\n",
            "callable 7 perhaps\n",
        ] {
            let message = RelayMessage::decode(remote(0).hub, &Bytes::copy_from_slice(line.as_bytes()));
            assert!(matches!(message, Err(Error::Header)), "{line:?}: {message:?}");
        }
    }
}
