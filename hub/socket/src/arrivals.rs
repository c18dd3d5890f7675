//! Sessions that come from other hubs, from the first message about them to the last.
//!
//! Invariants
//! - A session begins here when its hub has given it up, and either ends here or goes to whoever asked for it: the
//!   connection that claimed it, or its peer's next one.
//! - Until it has arrived whole nobody can claim it: anybody who tries is told to ask again.
//! - Everything that arrives of it is charged to its key, from the first message on. If the key has no room, the
//!   session is closed once it has arrived whole, and the other hub is told as of any end.
//! - Other hubs that asked for it meanwhile are dealt with once it is here, except those that already had it in between
//!   or have given up: a session handed to a hub that does not wait for it is lost.

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

/// Time for a session to arrive, from the first message about it to the last.
const ARRIVING: Duration = Duration::from_secs(10);

/// The limit on what may come before a session: it has room for everything its peer may have subscribed to and called.
const ANNOUNCED_BYTES: usize = 32 * 1024 * 1024;

/// Time for the spoke of a session to become known here, before its peer is told that the session has arrived.
const SETTLING: Duration = Duration::from_secs(2);

/// The sessions on their way to one hub, by the tunnels to the hubs that they leave.
pub(crate) struct ComingSessions {
    sockets: Sockets,
    /// Those whose first messages have arrived, with parts of their state.
    announced: HashMap<TunnelId, Announced>,
    arriving: HashMap<TunnelId, Arriving>,
}

/// The parts that arrived before a session.
struct Announced {
    /// In order; `None` once one could not be read, or they were too much.
    parts: Option<Vec<HandoverPart>>,
    bytes: usize,
    until: Instant,
}

/// A session on its way here.
struct Arriving {
    claim: SessionClaim,
    session: Box<PeerSession>,
    left: DeliveryState,
    /// The charge for what is left; `None` if it did not fit.
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

    /// When the next of them runs out of time.
    pub(crate) fn overdue(&self) -> Option<Instant> {
        let announced = self.announced.values().map(|announced| announced.until);
        let arriving = self.arriving.values().map(|arriving| arriving.until);
        announced.chain(arriving).min()
    }

    /// Gives up those that have run out of time.
    pub(crate) fn end_overdue(&mut self) {
        let now = Instant::now();
        self.announced.retain(|_, announced| announced.until > now);
        self.give_up(|_, arriving| arriving.until <= now);
    }

    /// A hub answers that it does not have the session that a claim is for.
    pub(crate) fn unknown(&self, claim: u64, hub: &HubId) {
        if let Some(claim) = self.sockets.claims().unknown(claim, hub) {
            self.nobody_has(claim);
        }
    }

    /// The claim that was sent to a hub has come back.
    pub(crate) fn returned(&self, claim: u64, hub: &HubId, nobody_listens: bool) {
        if let Some(claim) = self.sockets.claims().returned(claim, hub, nobody_listens) {
            self.nobody_has(claim);
        }
    }

    /// A hub answers that it has the session but its peer cannot have it; or that the session is on its way from there,
    /// in which case it may be available where it goes.
    pub(crate) fn refused(&self, claim: u64, hub: &HubId, error: CallError) {
        if error.retryable {
            if let Some(claim) = self.sockets.claims().deferred(claim, hub, error) {
                self.nobody_has(claim);
            }
        } else if let Some(claim) = self.sockets.claims().answered(claim, hub) {
            self.refuse(claim, error);
        }
    }

    /// No hub has the session that was asked for. Another connection of its peer may meanwhile have brought it here, or
    /// be about to.
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

    /// Takes a part of the state of a session that will be handed over.
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

    /// A session arrives for the claim with this number. If there is no such claim, or the session cannot be read, its
    /// hub is told so.
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

    /// Tells a hub that nothing will come from here through the tunnel.
    fn leave(&self, from: TunnelId) {
        let TunnelId { hub, number: tunnel } = from;
        self.sockets.say(&hub, SessionMessage::Left { tunnel });
    }

    /// The session as it was when its hub gave it up; its messages follow.
    fn begun(&self, from: &TunnelId, mut claim: SessionClaim, mut handover: Handover) -> Arriving {
        let met = self.meet(&mut claim, &mut handover);
        let key = claim.wanted.key.clone();
        let budget = self.sockets.edge().budgets().key(&key.id);
        let (outbox, outgoing) = self.queue(&budget, handover.dialect());
        let tunnel = self.open_tunnel(from, &handover, &outbox);
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

    /// Adds this claim to those that the session has met. Of the other hubs that ask for the session, those whose
    /// claims are among them are dropped.
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

    /// Opens the tunnel to what runs on the hub that the session leaves.
    fn open_tunnel(&self, from: &TunnelId, handover: &Handover, outbox: &Outbox) -> TunnelGuard {
        let parts = TunnelParts {
            id: from.clone(),
            back: Way::new(self.sockets.calls().moves(), &from.hub),
            outbox: outbox.clone(),
            legs: &handover.legs,
            calls: &handover.calls,
            hubs: handover.hubs + 1,
        };
        TunnelGuard::open(self.sockets.tunnels(), parts)
    }

    /// The session's place among the sessions here; nobody can claim it before it has arrived whole.
    fn place(&self, wanted: &WantedSession, met: &MetClaims, outbox: &Outbox) -> SessionPlace {
        let resumable = self.sockets.resumable();
        resumable.enter_as(wanted.id.clone(), met.clone(), &wanted.key.id, outbox)
    }

    /// Takes a message that the peer lacks.
    pub(crate) fn again(&mut self, from: &TunnelId, message: Bytes) {
        if let Some(arriving) = self.arriving.get_mut(from) {
            arriving.lacks(message);
        }
    }

    /// Everything of a session has arrived. It goes to the connection that asked for it as soon as its spoke can be
    /// called here through every hub, or waits for another connection.
    pub(crate) fn whole(&mut self, from: &TunnelId) {
        let Some(arriving) = self.arriving.remove(from) else {
            // What came before was not accepted: that hub may consider the session gone.
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
        // From here on the session itself is charged for it.
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

    /// The hub that a session comes from has broken off.
    pub(crate) fn broken(&mut self, from: &TunnelId) {
        if let Some(arriving) = self.arriving.remove(from) {
            self.nobody_has(arriving.claim);
        }
    }

    /// Nothing more comes from a hub.
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
    /// Takes a message that the peer lacks; if there is no room for it, the session ends once it is here.
    fn lacks(&mut self, message: Bytes) {
        let Some(held) = &mut self.held else { return };
        if held.resize(held.bytes() + message.len()).is_ok() {
            return self.left.again.push(message);
        }
        (self.held, self.left.again) = (None, Vec::new());
    }
}

/// Hands a session that has arrived to the connection that asked for it: once its spoke can be called here, so that the
/// hub it has left is no longer needed, or after [`SETTLING`].
async fn settle(mut session: Box<PeerSession>, taker: Taker) {
    // If this takes too long, what is under way goes on with the session.
    let _ = timeout(SETTLING, poll_fn(|cx| session.conversation.poll_arrived(cx))).await;
    if let Err(session) = session.hand_to(taker, waiting::let_wait) {
        waiting::let_wait(session);
    }
}
