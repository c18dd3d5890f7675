//! The messages between hubs about sessions that move: one line, then a message of the session where there is one.
//!
//! ```text
//! session claim {claim} {digest} {received} {key}\n               to every hub: who has this session?
//! session unknown {claim}\n                                       back: not this one
//! session refused {claim}\n{error}                                back: this one, and its peer cannot have it
//! session part {tunnel}\n{state}                                  back, before `handed`: a part of the state, which is too
//!                                                                 much for one message
//! session handed {claim} {tunnel}\n{state}                        back: this one; the session follows
//! session again {tunnel}\n{message}                               a message that its peer lacks, in order
//! session to-peer {tunnel} {kind} {request id or -}\n{message}    a message for the peer
//! session whole {tunnel}\n                                        all that was there has been sent
//! session done {tunnel} {request id}\n                            a call that ran on the spoke is over
//! session closed {tunnel}\n                                       nothing of it runs any more on the hub that it left
//! session from-peer {tunnel} [{bytes}]\n{message}                 to the hub that it left: a message of the peer about a call
//!                                                                 there; of so many bytes, where that is over the limit and
//!                                                                 only its beginning follows
//! session left {tunnel}\n                                         to that hub: the session has ended
//! ```
//!
//! A claim is numbered by the hub that claims, a tunnel by the hub that the session leaves.

use alkhub_protocol::CallError;
use alkhub_protocol::json::strict;
use bytes::Bytes;

use crate::session::outbox::{PassedKind, PassedMessage};

/// The first word of the line.
pub(crate) const WORD: &str = "session ";

/// In place of a request id, which has a character at least.
const NO_ID: &str = "";

/// A message from one hub to another about a session.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionMessage {
    /// Who has the session? Its peer has come to this hub.
    Claim {
        /// The number by which the answers name the claim.
        claim: u64,
        /// The digest of the id by which the peer knows the session.
        digest: String,
        /// How many messages of the session the peer has received.
        received: u64,
        /// The id of the key that the peer has come with.
        key: String,
    },
    /// The session is not on this hub.
    Unknown {
        /// The claim's number.
        claim: u64,
    },
    /// The session is on this hub, and the peer cannot have it.
    Refused {
        /// The claim's number.
        claim: u64,
        /// The reason, for the peer to read.
        error: CallError,
    },
    /// A part of the session's state, if that is too much for one message; [`SessionMessage::Handed`] is the last part.
    Part {
        /// The session's tunnel.
        tunnel: u64,
        /// The part, as JSON.
        state: Bytes,
    },
    /// This hub has given up the session, which follows.
    Handed {
        /// The claim's number.
        claim: u64,
        /// The number by which both hubs name what goes on between them.
        tunnel: u64,
        /// The session's state, as JSON.
        state: Bytes,
    },
    /// A message that the peer lacks.
    Again {
        /// The session's tunnel.
        tunnel: u64,
        /// The message.
        message: Bytes,
    },
    /// A message for the peer.
    ToPeer {
        /// The session's tunnel.
        tunnel: u64,
        /// The message.
        passed: PassedMessage,
    },
    /// Everything has been sent.
    Whole {
        /// The session's tunnel.
        tunnel: u64,
    },
    /// A call is over that the hub which the session left has on the spoke.
    Done {
        /// The session's tunnel.
        tunnel: u64,
        /// The call, by the id that the spoke knows.
        leg: String,
    },
    /// Nothing of the session runs any more on the hub that it left.
    Closed {
        /// The session's tunnel.
        tunnel: u64,
    },
    /// A message of the peer about a call of the hub that the session left.
    FromPeer {
        /// The session's tunnel.
        tunnel: u64,
        /// How many bytes the peer has sent.
        size: usize,
        /// The message as the peer has sent it; if it is over the limit, only its beginning.
        message: Bytes,
    },
    /// The session has ended on the hub to which it went.
    Left {
        /// The session's tunnel.
        tunnel: u64,
    },
}

// === impl SessionMessage ===

impl SessionMessage {
    /// The line, including its end, and what follows it.
    pub(crate) fn encode(self) -> (String, Bytes) {
        let none = Bytes::new;
        match self {
            Self::Claim {
                claim,
                digest,
                received,
                key,
            } => (format!("session claim {claim} {digest} {received} {key}\n"), none()),
            Self::Unknown { claim } => (format!("session unknown {claim}\n"), none()),
            Self::Refused { claim, error } => {
                let error = serde_json::to_vec(&error).expect("an error has a JSON form");
                (format!("session refused {claim}\n"), error.into())
            }
            Self::Part { tunnel, state } => (format!("session part {tunnel}\n"), state),
            Self::Handed { claim, tunnel, state } => (format!("session handed {claim} {tunnel}\n"), state),
            Self::Again { tunnel, message } => (format!("session again {tunnel}\n"), message),
            Self::ToPeer { tunnel, passed } => {
                let PassedMessage { kind, id, message } = passed;
                let id = id.as_deref().unwrap_or(NO_ID);
                (format!("session to-peer {tunnel} {kind} {id}\n"), message)
            }
            Self::Whole { tunnel } => (format!("session whole {tunnel}\n"), none()),
            Self::Done { tunnel, leg } => (format!("session done {tunnel} {leg}\n"), none()),
            Self::Closed { tunnel } => (format!("session closed {tunnel}\n"), none()),
            Self::FromPeer { tunnel, size, message } if size == message.len() => {
                (format!("session from-peer {tunnel}\n"), message)
            }
            Self::FromPeer { tunnel, size, message } => (format!("session from-peer {tunnel} {size}\n"), message),
            Self::Left { tunnel } => (format!("session left {tunnel}\n"), none()),
        }
    }

    /// Reads the line, without its first word and its end, and what follows it; `None` for a message that no hub sends.
    pub(crate) fn decode(line: &str, rest: Bytes) -> Option<Self> {
        // A key's id is the last field, because it may be any text without the end of a line.
        let mut fields = line.splitn(5, ' ');
        let mut field = || fields.next();
        let message = match field()? {
            "claim" => Self::Claim {
                claim: field()?.parse().ok()?,
                digest: field()?.to_owned(),
                received: field()?.parse().ok()?,
                key: field()?.to_owned(),
            },
            "unknown" => Self::Unknown {
                claim: field()?.parse().ok()?,
            },
            "refused" => Self::Refused {
                claim: field()?.parse().ok()?,
                error: strict::from_slice(&rest).ok()?,
            },
            "part" => Self::Part {
                tunnel: field()?.parse().ok()?,
                state: rest,
            },
            "handed" => Self::Handed {
                claim: field()?.parse().ok()?,
                tunnel: field()?.parse().ok()?,
                state: rest,
            },
            "again" => Self::Again {
                tunnel: field()?.parse().ok()?,
                message: rest,
            },
            "to-peer" => Self::ToPeer {
                tunnel: field()?.parse().ok()?,
                passed: PassedMessage {
                    kind: field()?.parse::<PassedKind>().ok()?,
                    id: Some(field()?).filter(|id| *id != NO_ID).map(str::to_owned),
                    message: rest,
                },
            },
            "whole" => Self::Whole {
                tunnel: field()?.parse().ok()?,
            },
            "done" => Self::Done {
                tunnel: field()?.parse().ok()?,
                leg: field()?.to_owned(),
            },
            "closed" => Self::Closed {
                tunnel: field()?.parse().ok()?,
            },
            "from-peer" => Self::FromPeer {
                tunnel: field()?.parse().ok()?,
                size: match field() {
                    Some(size) => size.parse().ok()?,
                    None => rest.len(),
                },
                message: rest,
            },
            "left" => Self::Left {
                tunnel: field()?.parse().ok()?,
            },
            _ => return None,
        };
        field().is_none().then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::Code;

    use super::*;

    fn carried(message: SessionMessage) -> Option<SessionMessage> {
        let (line, rest) = message.encode();
        let line = line.strip_prefix(WORD).expect("its first word");
        SessionMessage::decode(line.strip_suffix('\n').expect("its end"), rest)
    }

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let text = || Bytes::from_static(b"{\"type\":\"job\"}\n");
        let passed = |kind, id: Option<&str>| SessionMessage::ToPeer {
            tunnel: 7,
            passed: PassedMessage {
                kind,
                id: id.map(str::to_owned),
                message: text(),
            },
        };
        let messages = [
            SessionMessage::Claim {
                claim: 1,
                digest: "ab12".to_owned(),
                received: 17,
                key: "a key".to_owned(),
            },
            SessionMessage::Unknown { claim: 1 },
            SessionMessage::Refused {
                claim: 1,
                error: CallError::new(Code::Conflict, "it lacks \"one\""),
            },
            SessionMessage::Part {
                tunnel: 7,
                state: text(),
            },
            SessionMessage::Handed {
                claim: 1,
                tunnel: 7,
                state: text(),
            },
            SessionMessage::Again {
                tunnel: 7,
                message: text(),
            },
            passed(PassedKind::Message, None),
            passed(PassedKind::LastEnd, Some("r-1/{}")),
            passed(PassedKind::LastEnd, Some("-")),
            SessionMessage::Whole { tunnel: 7 },
            SessionMessage::Done {
                tunnel: 7,
                leg: "n1-9".to_owned(),
            },
            SessionMessage::Closed { tunnel: 7 },
            SessionMessage::FromPeer {
                tunnel: 7,
                size: text().len(),
                message: text(),
            },
            SessionMessage::FromPeer {
                tunnel: 7,
                size: 1_300_000,
                message: text(),
            },
            SessionMessage::Left { tunnel: 7 },
        ];

        for message in messages {
            assert_eq!(carried(message.clone()), Some(message));
        }
    }

    #[test]
    fn what_no_hub_says_is_not_read() {
        for line in [
            "",
            "claim",
            "claim x d 1 k",
            "to-peer 1 shout -",
            "whole 1 2",
            "handed 1",
        ] {
            assert_eq!(SessionMessage::decode(line, Bytes::new()), None, "{line}");
        }
    }
}
