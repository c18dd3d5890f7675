//! Sessions that come from other hubs, from the first message about them to the last.
//!
//! Invariants
//! - A session begins here when its hub has given it up, and ends here or goes to whoever asked for it: a connection, or its
//!   peer's next one.
//! - Until it has come whole nobody can claim it: whoever tries is told to ask again.
//! - Everything that comes of it is charged to its key, from the first message on. Where the key has no room the
//!   session is closed once it has come whole, and the other hub is told as of any end.
//! - Other hubs that asked for it meanwhile are asked about when it is here, but for those that had it in between, or have given
//!   up: what is handed to a hub that does not wait for it is lost.

use std::collections::HashMap;
use std::future::poll_fn;
use std::time::Duration;

use alkhub_budget::{Budget, Held, Kept};
use alkhub_calls::{DeliveryState, Limits, Outbox, Outgoing, SessionMessage, TunnelId};
use alkhub_protocol::{CallError, CloseCode, Dialect, HubId};
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::claims::{MetClaim, SessionClaim, WantedSession};
use crate::conversation::Conversation;
use crate::departures;
use crate::handover::{ClaimId, Handover, HandoverPart, MetClaims};
use crate::resumable::{self, SessionPlace, Taker};
use crate::session::PeerSession;
use crate::sockets::Sockets;
use crate::tunnel::{TunnelGuard, TunnelParts, Way};
use crate::waiting;

/// Time for a session to come, from the first message about it to the last.
const ARRIVING: Duration = Duration::from_secs(10);

/// The limit on what may come before a session: all that its peer may have subscribed to and called fits in.
const ANNOUNCED_BYTES: usize = 32 * 1024 * 1024;

/// Time for the spoke of a session to be known here, before its peer is told that it has come.
const SETTLING: Duration = Duration::from_secs(2);

/// The sessions on their way to one hub, by the tunnels to the hubs that they leave.
pub(crate) struct ComingSessions {
    sockets: Sockets,
    /// Those of which the first messages have come, with parts of their state.
    announced: HashMap<TunnelId, Announced>,
    arriving: HashMap<TunnelId, Arriving>,
}

/// The parts that have come before a session.
struct Announced {
    /// In their order; `None` once one could not be read, or it was too much.
    parts: Option<Vec<HandoverPart>>,
    bytes: usize,
    until: Instant,
}

/// A session on its way here.
struct Arriving {
    claim: SessionClaim,
    session: Box<PeerSession>,
    left: DeliveryState,
    /// For what is left; none where it did not fit.
    held: Option<Held>,
    until: Instant,
}

// === impl ComingSessions ===

impl ComingSessions {
    pub(crate) fn new(sockets: Sockets) -> Self {
        Self {
            sockets,
            announced: HashMap::new(),
            arriving: HashMap::new(),
        }
    }

    /// When the next of them has had its time.
    pub(crate) fn overdue(&self) -> Option<Instant> {
        let announced = self.announced.values().map(|announced| announced.until);
        let arriving = self.arriving.values().map(|arriving| arriving.until);
        announced.chain(arriving).min()
    }

    /// Gives up those that have had their time.
    pub(crate) fn end_overdue(&mut self) {
        let now = Instant::now();
        self.announced.retain(|_, announced| announced.until > now);
        self.give_up(|_, arriving| arriving.until <= now);
    }

    /// A hub does not have the session that a claim is for.
    pub(crate) fn unknown(&self, claim: u64, hub: &HubId) {
        if let Some(claim) = self.sockets.claims().unknown(claim, hub) {
            self.nobody_has(claim);
        }
    }

    /// A hub has it, and its peer cannot; or it is on its way from there, and where it goes it may be had.
    pub(crate) fn refused(&self, claim: u64, hub: &HubId, error: CallError) {
        if error.retryable {
            if let Some(claim) = self.sockets.claims().deferred(claim, hub, error) {
                self.nobody_has(claim);
            }
        } else if let Some(claim) = self.sockets.claims().answered(claim, hub) {
            self.refuse(claim, error);
        }
    }

    /// No hub has the session that was asked for. Another connection of its peer may have brought it here meanwhile, or be about
    /// to.
    pub(crate) fn nobody_has(&self, claim: SessionClaim) {
        let (sockets, digest) = (&self.sockets, claim.digest());
        let asks = || sockets.claims().has(sockets.calls().moves(), digest);
        let comes = || asks() || sockets.resumable().has(digest, &claim.wanted.key.id);
        let error = match claim.unsure() {
            Some(unsure) => unsure,
            None if comes() => resumable::on_its_way(),
            None => resumable::ended(),
        };
        self.refuse(claim, error);
    }

    fn refuse(&self, claim: SessionClaim, error: CallError) {
        let others = claim.refuse(error);
        others
            .into_iter()
            .for_each(|other| departures::asked(&self.sockets, other));
    }

    /// A part comes of what a session is made of, which will be handed over.
    pub(crate) fn part(&mut self, from: TunnelId, state: &Bytes) {
        let announced = self.announced.entry(from).or_insert_with(|| Announced {
            parts: Some(Vec::new()),
            bytes: 0,
            until: Instant::now() + ARRIVING,
        });
        announced.bytes += state.len();
        let fits = announced.bytes <= ANNOUNCED_BYTES;
        let part = HandoverPart::decode(state).filter(|_| fits);
        match (&mut announced.parts, part) {
            (Some(parts), Some(part)) => parts.push(part),
            (parts, _) => *parts = None,
        }
    }

    /// The state of a session; `None` if it cannot be read.
    fn handed(&mut self, from: &TunnelId, state: &Bytes) -> Option<Handover> {
        let announced = self.announced.remove(from);
        let mut handover = Handover::decode(state)?;
        if let Some(announced) = announced {
            announced.parts?.into_iter().for_each(|part| handover.add(part));
        }
        Some(handover)
    }

    /// A session comes, for a claim of this number. Where there is no such claim, or it cannot be read, its hub is told so.
    pub(crate) fn begin(&mut self, from: TunnelId, claim: u64, state: &Bytes) {
        let claim = self.sockets.claims().given(claim, &from.hub);
        let handover = self.handed(&from, state);
        match (claim, handover) {
            (Some(claim), Some(handover)) => {
                let arriving = self.begun(&from, claim, handover);
                self.arriving.insert(from, arriving);
            }
            (claim, _) => {
                claim.into_iter().for_each(|claim| self.nobody_has(claim));
                self.leave(from);
            }
        }
    }

    /// Tells a hub that nothing comes from here through the tunnel.
    fn leave(&self, from: TunnelId) {
        let TunnelId { hub, number: tunnel } = from;
        self.sockets.say(&hub, SessionMessage::Left { tunnel });
    }

    /// A session as it is when its hub has given it up; its messages follow.
    fn begun(&self, from: &TunnelId, mut claim: SessionClaim, mut handover: Handover) -> Arriving {
        let met = self.meet(&mut claim, &mut handover);
        let key = claim.wanted.key.clone();
        let budget = self.sockets.edge().budgets().key(&key.id);
        let (outbox, outgoing) = self.queue(&budget, handover.dialect());
        let mut tunnel = self.open_tunnel(from, &handover, &outbox);
        let held = tunnel.charge(&budget).is_ok().then(|| budget.nothing(Kept::Moves));
        let place = self.place(&claim.wanted, &met, &outbox);
        let counts = handover.counts();
        place.acknowledged(counts.by_peer);
        let mut conversation = Conversation::new(self.sockets.clone(), key, outbox, budget);
        conversation.go_on(&mut handover, tunnel);
        let mut session = PeerSession::arrived(conversation, outgoing, place, counts.by_hub, met);
        session.moved = handover.moved_at();
        Arriving {
            claim,
            session,
            left: DeliveryState {
                received: counts.by_peer,
                again: Vec::new(),
            },
            held,
            until: Instant::now() + ARRIVING,
        }
    }

    /// The claims that the session has met, with this one. Of the other hubs that ask for it those are forgotten whose claims
    /// are among them.
    fn meet(&self, claim: &mut SessionClaim, handover: &mut Handover) -> MetClaims {
        let own = ClaimId {
            hub: self.sockets.edge().hub_id().clone(),
            number: claim.number,
        };
        let mut met = std::mem::take(&mut handover.met);
        met.add(own, &self.sockets.calls().moves().others());
        claim.others.retain(|other| !met.has(&other.claim));
        met
    }

    /// A new queue for the session's messages.
    fn queue(&self, budget: &Budget, dialect: Option<Dialect>) -> (Outbox, Outgoing) {
        let edge = self.sockets.edge();
        let limits = Limits {
            items: edge.server().outbox_messages,
            bytes: edge.server().outbox_bytes,
        };
        let (outbox, outgoing) = alkhub_calls::outbox(edge.connection_id(), limits, budget);
        if let Some(dialect) = dialect {
            outbox.speaks(dialect);
        }
        (outbox, outgoing)
    }

    /// Opens the way to what runs on the hub that the session leaves.
    fn open_tunnel(&self, from: &TunnelId, handover: &Handover, outbox: &Outbox) -> TunnelGuard {
        self.sockets.tunnels().open(TunnelParts {
            id: from.clone(),
            back: Way::new(self.sockets.calls().moves(), &from.hub),
            outbox: outbox.clone(),
            legs: &handover.legs,
            calls: &handover.calls,
            hubs: handover.hubs + 1,
        })
    }

    /// The place among the sessions here that nobody can claim before the session has come whole.
    fn place(&self, wanted: &WantedSession, met: &MetClaims, outbox: &Outbox) -> SessionPlace {
        let resumable = self.sockets.resumable();
        resumable.enter_as(wanted.id.clone(), met.clone(), &wanted.key.id, outbox)
    }

    /// A message that its peer lacks.
    pub(crate) fn again(&mut self, from: &TunnelId, message: Bytes) {
        if let Some(arriving) = self.arriving.get_mut(from) {
            arriving.lacks(message);
        }
    }

    /// Everything of a session has come: it goes to the connection that has asked for it as soon as its spoke can be called here
    /// through every hub, or waits for another connection.
    pub(crate) fn whole(&mut self, from: &TunnelId) {
        let Some(arriving) = self.arriving.remove(from) else {
            // What came before did not: that hub may take it for gone.
            return self.leave(from.clone());
        };
        let Arriving {
            claim,
            mut session,
            left,
            held,
            ..
        } = arriving;
        let sockets = &self.sockets;
        sockets.sessions().arrived.inc();
        // From here on the session is charged for it itself.
        let fits = held.is_some();
        drop(held);
        if !fits || session.outgoing.restore(left).is_err() {
            let reason = "the budget of the key has no room for what the session has to say";
            session.conversation.outbox().close(CloseCode::Policy, reason);
        }
        tracing::info!(session.id = %session.conversation.outbox().session(), "a session has come from another hub");
        let MetClaim { taker, others, coming } = claim.met();
        session.came(coming);
        let scope = sockets.edge().scope();
        let stop = scope.stop.clone();
        scope.tasks.spawn(async move {
            stop.run_until_cancelled(settle(session, taker)).await;
        });
        others.into_iter().for_each(|other| departures::asked(sockets, other));
    }

    /// The hub that one comes from has broken off.
    pub(crate) fn broken(&mut self, from: &TunnelId) {
        if let Some(arriving) = self.arriving.remove(from) {
            self.nobody_has(arriving.claim);
        }
    }

    /// Nothing comes from a hub any more.
    pub(crate) fn lost(&mut self, hub: &HubId) {
        self.announced.retain(|from, _| from.hub != *hub);
        self.give_up(|from, _| from == hub);
    }

    fn give_up(&mut self, ends: impl Fn(&HubId, &Arriving) -> bool) {
        let gone = self.arriving.extract_if(|from, arriving| ends(&from.hub, arriving));
        let gone: Vec<Arriving> = gone.map(|(_, arriving)| arriving).collect();
        for Arriving { claim, session, .. } in gone {
            drop(session);
            self.nobody_has(claim);
        }
    }
}

// === impl Arriving ===

impl Arriving {
    /// Takes a message that the peer lacks; what has no room ends the session when it is here.
    fn lacks(&mut self, message: Bytes) {
        let Some(held) = &mut self.held else { return };
        if held.resize(held.bytes() + message.len()).is_ok() {
            return self.left.again.push(message);
        }
        (self.held, self.left.again) = (None, Vec::new());
    }
}

/// Hands a session that has come to the connection which has asked for it: when its spoke can be called here, so that the hub
/// which it has left is needed no more, or after [`SETTLING`].
async fn settle(mut session: Box<PeerSession>, taker: Taker) {
    // What is under way goes on with the session.
    let _ = timeout(SETTLING, poll_fn(|cx| session.conversation.poll_arrived(cx))).await;
    if let Err(session) = session.hand_to(taker, waiting::let_wait) {
        waiting::let_wait(session);
    }
}
