//! The messages that a session's former hub passes to the hub that goes on with it.

use std::fmt;
use std::str::FromStr;

use alkhub_queue::Full;
use bytes::Bytes;

/// The kind of a passed message: how the hub that the session has moved to is to treat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedKind {
    /// None of the others.
    Message,
    /// An item of a subscription.
    Item,
    /// A message that the peer must not read together with what was sent before it.
    Last,
    /// The end of a call that the peer has made.
    End,
    /// Both `Last` and `End`.
    LastEnd,
    /// A call for the spoke.
    Call,
}

/// One message for the peer of a session that has moved, from the hub that it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedMessage {
    /// Its kind.
    pub kind: PassedKind,
    /// The call that it ends or begins, as the peer names it.
    pub id: Option<String>,
    /// The message as it is written to the peer.
    pub message: Bytes,
}

/// Where a session's messages go once another hub has it. Nothing here waits.
pub(crate) trait Elsewhere: fmt::Debug + Send + Sync {
    /// Passes a message on.
    ///
    /// # Errors
    /// [`Full`]: it was not accepted.
    fn pass(&self, passed: PassedMessage) -> Result<(), Full>;

    /// Notes that a call which ran on the spoke when it moved, or was sent there since, is over on this hub.
    fn done(&self, leg: &str);
}

/// How far the messages of a session have reached its peer, at the moment when another hub goes on with it.
#[derive(Debug)]
pub struct DeliveryState {
    /// How many messages of the session the peer has received.
    pub received: u64,
    /// The later ones, which it lacks, in order.
    pub again: Vec<Bytes>,
}

// === impl PassedKind ===

impl PassedKind {
    const ALL: [Self; 6] = [
        Self::Message,
        Self::Item,
        Self::Last,
        Self::End,
        Self::LastEnd,
        Self::Call,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Item => "item",
            Self::Last => "last",
            Self::End => "end",
            Self::LastEnd => "last-end",
            Self::Call => "call",
        }
    }
}

impl fmt::Display for PassedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for PassedKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or(())
    }
}
