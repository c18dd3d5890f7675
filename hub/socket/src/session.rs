//! What a peer has on this hub, whichever connection serves it.
//!
//! A session is not a socket: its calls, its spoke and its subscriptions, and what is to be written to it, belong to
//! [`PeerSession`], which a connection serves and gives back when it is over. Who takes it next decides: another connection
//! goes on where this one stopped ([`PeerSession::attach`]), or the session ends ([`PeerSession::end`]).
//!
//! Invariants
//! - A session is served by one connection at a time, since it is moved from one to the next.
//! - What was queued for the peer and did not leave the hub is written again by the next connection, in its order.

use alkhub_calls::Outgoing;

use crate::conversation::Conversation;
use crate::held::HeldBack;

/// A peer's session.
pub(crate) struct PeerSession {
    /// What the peer has under way.
    pub(crate) conversation: Conversation,
    /// What is to be written to it.
    pub(crate) outgoing: Outgoing,
    /// Ends of streams and aborts that the peer must not read together with what was sent before them.
    pub(crate) held: HeldBack,
}

// === impl PeerSession ===

impl PeerSession {
    /// The session of a peer that has just come.
    pub(crate) fn new(conversation: Conversation, outgoing: Outgoing) -> Box<Self> {
        Box::new(Self {
            conversation,
            outgoing,
            held: HeldBack::default(),
        })
    }

    /// Begins for the connection that serves it from now on.
    pub(crate) fn attach(&mut self) {
        self.outgoing.attach();
        self.held.attach();
    }

    /// Ends it: the peer's calls are aborted, unless they go on without it, and its spoke is gone. Dropping the session,
    /// or the future, does the same without waiting until the directory knows.
    pub(crate) async fn end(self) {
        drop(self.outgoing);
        self.conversation.end().await;
    }
}
