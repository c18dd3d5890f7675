//! How far a connection has come with its greeting, and what is to be written that counts in no session.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::resumable::Claimed;

/// How far a connection has come with its greeting.
pub(super) enum Greeting {
    /// Nothing has come yet but so many `__hello`s that were refused.
    Awaited(u8),
    /// The peer comes back to a session, which is on its way here: nothing is read until it is there.
    Claiming(Box<Claiming>),
    /// Done.
    Greeted,
    /// The peer began without.
    Plain,
}

/// A session that is on its way.
pub(super) struct Claiming {
    pub(super) session: oneshot::Receiver<Claimed>,
    /// What the peer has received of it.
    pub(super) received: u64,
    /// Other `__hello`s of the connection that were refused.
    pub(super) refused: u8,
}

/// What is to be written and counts in no session.
#[derive(Default)]
pub(super) struct Uncounted {
    /// In order.
    pub(super) messages: Vec<Bytes>,
    /// The answer to the last `__ping`.
    pub(super) pong: Option<Bytes>,
    /// Whether the peer wants to see `__ping`s.
    pub(super) pings: bool,
    /// Whether it goes on with its session on another hub when it is asked to.
    pub(super) migrates: bool,
    /// Whether it wants to know how many hubs there are.
    pub(super) hubs: bool,
    /// Whether it names specifications by their hash.
    pub(super) hashes: bool,
}
