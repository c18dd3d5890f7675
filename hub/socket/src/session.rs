//! The session of a peer on this hub, whichever connection serves it.
//!
//! A session is not a socket: its calls, its spoke and its subscriptions, and what is to be written to it, belong to
//! [`PeerSession`], which a connection serves and returns when it is over. What happens next depends: another
//! connection goes on where this one stopped ([`PeerSession::attach`], [`PeerSession::resume`]), the session waits for
//! its peer ([`crate::waiting`]), or it ends ([`PeerSession::end`]).
//!
//! Invariants
//! - A session is served by one connection at a time, since it is moved from one to the next.
//! - What was queued for the peer and did not leave the hub is written again by the next connection, in order. For a
//!   peer that counts messages, that is everything that it has not received, and nothing that it has.

use std::task::Context;
use std::time::Duration;

use alkhub_calls::{Outgoing, WrongCount};
use bytes::Bytes;
use tokio::time::Instant;

use crate::coming::ComingGuard;
use crate::conversation::Conversation;
use crate::handover::MetClaims;
use crate::held::HeldBack;
use crate::resumable::{Handed, SessionPlace, Taker};

/// Messages of a peer are acknowledged after this many of them,
const ACK_MESSAGES: u64 = 64;

/// or after this many bytes.
const ACK_BYTES: usize = 64 * 1024;

/// A peer's session.
pub(crate) struct PeerSession {
    /// Everything that the peer has under way.
    pub(crate) conversation: Conversation,
    /// The messages to be written to it.
    pub(crate) outgoing: Outgoing,
    /// Ends of streams and aborts that the peer must not read together with what was sent before them.
    pub(crate) held: HeldBack,
    /// For a peer that may come back.
    counted: Option<Counted>,
    /// When it came from another hub at that hub's request.
    pub(crate) moved: Option<Instant>,
    /// Whether this hub has asked its peer to move, and it has not come back here since.
    pub(crate) is_asked: bool,
    /// It has come from another hub, and nothing else counts it yet.
    coming: Option<ComingGuard>,
}

/// A session on its way to whoever asked for it.
struct InHand {
    session: Option<Box<PeerSession>>,
    not_taken: NotTaken,
}

/// What to do with a session if whoever asked for it is gone before taking it.
pub(crate) type NotTaken = fn(Box<PeerSession>);

/// What else a session consists of when it is given away, besides its conversation and its queue.
pub(crate) struct Rest {
    /// The messages that were kept to be sent later.
    pub(crate) kept: Vec<Bytes>,
    /// Messages of the peer that were received.
    pub(crate) received: u64,
    /// The claims that it has met.
    pub(crate) met: MetClaims,
    /// Until the session is given up, whoever asks for it is told that it is on its way: it must not be taken for
    /// ended.
    _place: Option<SessionPlace>,
}

/// The message counts of both sides.
struct Counted {
    place: SessionPlace,
    /// Messages of the peer.
    received: u64,
    /// How many of those the peer was told about, and the bytes of the rest.
    acknowledged: u64,
    bytes: usize,
    /// The claims of hubs by which it came to them.
    met: MetClaims,
}

// === impl PeerSession ===

impl PeerSession {
    /// The session of a peer that has just arrived.
    pub(crate) fn new(conversation: Conversation, outgoing: Outgoing) -> Box<Self> {
        Box::new(Self {
            conversation,
            outgoing,
            held: HeldBack::default(),
            counted: None,
            moved: None,
            is_asked: false,
            coming: None,
        })
    }

    /// The session from a handover.
    pub(crate) fn handed(session: Handed) -> Box<Self> {
        let mut session: Box<InHand> = session.downcast().expect("nothing but sessions is handed over");
        session.session.take().expect("it is handed over once")
    }

    /// Gives it to `taker`, or to `not_taken` if it does not get there.
    ///
    /// # Errors
    /// Nobody waits for it any more.
    pub(crate) fn hand_to(self: Box<Self>, taker: Taker, not_taken: NotTaken) -> Result<(), Box<Self>> {
        let session = Some(self);
        let returned = taker.send(Ok(Box::new(InHand { session, not_taken })));
        returned.map_err(|returned| Self::handed(returned.expect("it was handed over")))
    }

    /// Starts over for the connection that serves it from now on.
    pub(crate) fn attach(&mut self) {
        self.outgoing.attach();
        self.held.attach();
    }

    /// Starts over for another connection of a peer that has received so many messages; returns how many were received
    /// from the peer.
    ///
    /// # Errors
    /// The count is impossible; nothing changes.
    pub(crate) fn resume(&mut self, received: u64) -> Result<u64, WrongCount> {
        self.outgoing.resume(received)?;
        self.held.attach();
        self.acknowledged(received);
        Ok(self.counted.as_mut().map_or(0, |counted| {
            // The `__resume` says it.
            counted.told();
            counted.received
        }))
    }

    /// From now on the peer counts, and can come back by the place's id.
    pub(crate) fn count(&mut self, place: SessionPlace) {
        self.outgoing.count();
        self.counted = Some(Counted {
            place,
            received: 0,
            acknowledged: 0,
            bytes: 0,
            met: MetClaims::default(),
        });
    }

    /// The id by which its peer comes back; `None` if it cannot.
    pub(crate) fn id(&self) -> Option<&str> {
        self.counted.as_ref().map(|counted| counted.place.id())
    }

    /// Whether its peer may come back to it.
    pub(crate) fn may_wait(&self) -> bool {
        self.counted.is_some() && !self.conversation.outbox().is_closed()
    }

    /// Notes that the peer has acknowledged `count` messages.
    pub(crate) fn acknowledged(&self, count: u64) {
        if let Some(counted) = &self.counted {
            counted.place.acknowledged(count);
        }
    }

    /// Whether the peer has acknowledged more than `received` messages since.
    pub(crate) fn is_ahead_of(&self, received: u64) -> bool {
        self.counted
            .as_ref()
            .is_some_and(|counted| counted.place.is_ahead_of(received))
    }

    /// Counts a message of the peer.
    pub(crate) fn received(&mut self, bytes: usize) {
        if let Some(counted) = &mut self.counted {
            counted.received += 1;
            counted.bytes += bytes;
        }
    }

    /// The count to acknowledge to the peer now; if there are few messages, only at a beat.
    pub(crate) fn take_ack(&mut self, beat: bool) -> Option<u64> {
        let counted = self.counted.as_mut()?;
        let untold = counted.received - counted.acknowledged;
        let is_due = untold >= ACK_MESSAGES || counted.bytes >= ACK_BYTES || beat;
        (untold > 0 && is_due).then(|| {
            counted.told();
            counted.received
        })
    }

    /// Whoever asks for the session, to serve it over another connection; the task is woken when somebody will.
    pub(crate) fn asked(&self, cx: &Context<'_>) -> Option<Taker> {
        self.counted.as_ref()?.place.asked(cx.waker())
    }

    /// A session that arrives from another hub, where so many messages of the peer were `received`, for the last of
    /// these claims. Its peer comes back to it by the place's id.
    pub(crate) fn arrived(
        conversation: Conversation,
        outgoing: Outgoing,
        place: SessionPlace,
        received: u64,
        met: MetClaims,
    ) -> Box<Self> {
        let mut session = Self::new(conversation, outgoing);
        session.counted = Some(Counted {
            place,
            received,
            acknowledged: received,
            bytes: 0,
            met,
        });
        session
    }

    /// How long ago it was last moved at a hub's request, if it moves now.
    pub(crate) fn moved_ago(&self) -> Option<Duration> {
        match self.is_asked {
            true => Some(Duration::ZERO),
            false => self.moved.map(|at| at.elapsed()),
        }
    }

    /// Notes that it has arrived whole and can be claimed; the guard counts it until it is served, or waits
    /// ([`Self::is_here`]).
    pub(crate) fn came(&mut self, coming: ComingGuard) {
        self.coming = Some(coming);
        if let Some(counted) = &self.counted {
            counted.place.came();
        }
    }

    /// Notes that something else counts it now.
    pub(crate) fn is_here(&mut self) {
        self.coming = None;
    }

    /// Takes it apart for another hub to go on with. Nobody can come back to it here.
    pub(crate) fn into_parts(self) -> (Conversation, Outgoing, Rest) {
        let Self {
            conversation,
            outgoing,
            mut held,
            counted,
            ..
        } = self;
        held.release_all();
        let kept = std::iter::from_fn(|| held.take()).collect();
        let (received, met, place) = counted.map_or_else(Default::default, |counted| {
            counted.place.goes();
            (counted.received, counted.met, Some(counted.place))
        });
        let rest = Rest {
            kept,
            received,
            met,
            _place: place,
        };
        (conversation, outgoing, rest)
    }

    /// Ends it: the peer's calls are aborted, unless they go on without it, and its spoke is gone. Dropping the
    /// session, or the future, does the same without waiting until the directory knows.
    pub(crate) async fn end(self) {
        drop(self.counted);
        drop(self.outgoing);
        self.conversation.end().await;
    }
}

// === impl InHand ===

impl Drop for InHand {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            (self.not_taken)(session);
        }
    }
}

// === impl Counted ===

impl Counted {
    fn told(&mut self) {
        self.acknowledged = self.received;
        self.bytes = 0;
    }
}
