//! What a session that another hub goes on with still has to say, on the hub that it left.

use std::fmt;
use std::str::FromStr;

use alkhub_queue::Full;
use bytes::Bytes;

/// What a message is to the hub that the session has moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaidKind {
    /// None of the others.
    Message,
    /// An item of a subscription.
    Item,
    /// One that the peer must not read together with what was sent before it.
    Last,
    /// The end of a call that the peer has made.
    End,
    /// Both.
    LastEnd,
    /// A call for the spoke.
    Call,
}

/// One message for the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it is.
    pub kind: SaidKind,
    /// The call that it ends or begins, as the peer names it.
    pub id: Option<String>,
    /// As it is written.
    pub message: Bytes,
}

/// Where everything goes that a session has to say once another hub has it. Nothing here waits.
pub(crate) trait Elsewhere: fmt::Debug + Send + Sync {
    /// Hands a message on.
    ///
    /// # Errors
    /// [`Full`]: it was not taken.
    fn say(&self, said: Said) -> Result<(), Full>;

    /// A call that ran on the spoke when it moved, or was sent there since, is over on this hub.
    fn done(&self, leg: &str);
}

/// What has left with a session when another hub goes on with it.
#[derive(Debug)]
pub struct LeftOver {
    /// Messages of the session that the peer has received.
    pub received: u64,
    /// Those after them, which it lacks, in order.
    pub again: Vec<Bytes>,
}

// === impl SaidKind ===

impl SaidKind {
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

impl fmt::Display for SaidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for SaidKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or(())
    }
}
