//! The line with which a message between hubs begins, as it is written and read. It names the message and the call or
//! the registration that it is about; the line of each kind of message is listed in the parent module. A line with
//! a word too many or too few is refused.

use alkhub_protocol::{InstanceId, OnDisconnect, SpokeName};

use crate::leg::call_id::CallId;

/// The longest line: at most two names of 128 bytes, three ids of 36, three numbers and three words.
pub(super) const LINE_LIMIT: usize = 512;

/// Stands in place of a parent's id.
const NO_PARENT: &str = "-";

/// Whether a registration can be called.
const YES: &str = "yes";
const NO: &str = "no";

/// The last word of the line of a call that goes on without its caller.
const DETACH: &str = "detach";

/// The last word of a call that was sent again after a loss.
const LOST: &str = "lost";

/// The line before the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Header {
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

/// The registration to which a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) spoke: SpokeName,
    pub(crate) instance: InstanceId,
    pub(crate) generation: u64,
}

// === impl Header ===

impl Header {
    /// The line, including its end.
    pub(crate) fn encode(&self) -> Vec<u8> {
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

    pub(super) fn decode(line: &str) -> Option<Self> {
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
