//! The state of a connection's greeting, and queued messages that count in no session.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::resumable::Claimed;

/// How far a connection has come with its greeting.
pub(super) enum Greeting {
    /// Nothing has arrived yet except this many `__hello`s that were refused.
    Awaited(u8),
    /// The peer comes back to a session that is on its way here: nothing is read until it has arrived.
    Claiming(Box<Claiming>),
    /// Done.
    Greeted,
    /// The peer began without a greeting.
    Plain,
}

/// A session that is on its way.
pub(super) struct Claiming {
    pub(super) session: oneshot::Receiver<Claimed>,
    /// How many of its messages the peer has received.
    pub(super) received: u64,
    /// How many other `__hello`s of the connection were refused.
    pub(super) refused: u8,
}

/// Messages to be written that count in no session.
#[derive(Default)]
pub(super) struct Uncounted {
    /// In order.
    pub(super) messages: Vec<Bytes>,
    /// The answer to the last `__ping`.
    pub(super) pong: Option<Bytes>,
    /// Whether the peer wants to receive `__ping`s.
    pub(super) pings: bool,
    /// Whether the peer moves its session to another hub when asked to.
    pub(super) migrates: bool,
    /// Whether it wants to know how many hubs there are.
    pub(super) hubs: bool,
    /// Whether it names specifications by their hash.
    pub(super) hashes: bool,
}
