//! Sessions that come from other hubs, from their first word to their last.
//!
//! Invariants
//! - A session begins here when its hub has given it up, and ends here or goes to whoever asked for it: a connection, or its
//!   peer's next one.
//! - Until it has come whole nobody can claim it: who does is told to ask again.
//! - What comes of it is charged to its key from its first word on. Where that has no room the session is closed when it has come
//!   whole, and the other hub is told as of any end.
//! - Other hubs that asked for it meanwhile are asked about when it is here, but for those that had it in between, or have given
//!   up: what is handed to a hub that does not wait for it is lost.

use std::collections::HashMap;
use std::future::poll_fn;
use std::time::Duration;

use alkhub_budget::{Held, Kept};
use alkhub_calls::{LeftOver, Limits, SessionMessage};
use alkhub_protocol::{CallError, CloseCode, HubId};
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::claims::SessionClaim;
use crate::conversation::Conversation;
use crate::departures;
use crate::handover::{Handover, HandoverPart};
use crate::resumable::{self, Taker};
use crate::session::PeerSession;
use crate::sockets::Sockets;
use crate::tunnel::Way;
use crate::waiting;

/// Time for a session to come, from its first word to its last.
const ARRIVING: Duration = Duration::from_secs(10);

/// What may come before a session: what its peer may have subscribed to and called fits in.
const ANNOUNCED_BYTES: usize = 32 * 1024 * 1024;

/// Time for the spoke of a session to be known here, before its peer is told that it has come.
const SETTLING: Duration = Duration::from_secs(2);

/// The sessions on their way to one hub, by the hub that they leave and the tunnel.
pub(crate) struct ComingSessions {
    sockets: Sockets,
    /// Those of which the first words have come, which are parts of what they are made of.
    announced: HashMap<(HubId, u64), Announced>,
    arriving: HashMap<(HubId, u64), Arriving>,
}

/// What has come before a session.
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
    left: LeftOver,
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
        let comes = || asks() || sockets.resumable().has(digest, &claim.key.id);
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
    pub(crate) fn part(&mut self, from: (HubId, u64), state: &Bytes) {
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

    /// What a session is made of; `None` of what cannot be read.
    fn handed(&mut self, from: &(HubId, u64), state: &Bytes) -> Option<Handover> {
        let announced = self.announced.remove(from);
        let mut handover = Handover::decode(state)?;
        if let Some(announced) = announced {
            announced.parts?.into_iter().for_each(|part| handover.add(part));
        }
        Some(handover)
    }

    /// A session comes, for a claim of this number. Where there is no such claim, or it cannot be read, its hub is told so.
    pub(crate) fn begin(&mut self, from: (HubId, u64), claim: u64, state: &Bytes) {
        let claim = self.sockets.claims().given(claim, &from.0);
        let handover = self.handed(&from, state);
        let begun = claim.and_then(|claim| self.begun(from.clone(), claim, handover));
        match begun {
            Some(arriving) => drop(self.arriving.insert(from, arriving)),
            None => {
                let (hub, tunnel) = from;
                self.sockets.say(&hub, SessionMessage::Left { tunnel });
            }
        }
    }

    fn begun(
        &self,
        (hub, tunnel): (HubId, u64),
        mut claim: SessionClaim,
        handover: Option<Handover>,
    ) -> Option<Arriving> {
        let (sockets, edge) = (&self.sockets, self.sockets.edge());
        let Some(mut handover) = handover else {
            self.nobody_has(claim);
            return None;
        };
        let mut met = std::mem::take(&mut handover.met);
        met.add(edge.hub_id(), claim.number, &sockets.calls().moves().others());
        claim.others.retain(|other| !met.has(&other.from, other.claim));
        let limits = Limits {
            items: edge.server().outbox_messages,
            bytes: edge.server().outbox_bytes,
        };
        let key = claim.key.clone();
        let budget = edge.budgets().key(&key.id);
        let (outbox, outgoing) = alkhub_calls::outbox(edge.connection_id(), limits, &budget);
        if let Some(dialect) = handover.dialect() {
            outbox.speaks(dialect);
        }
        let back = Way::new(sockets.calls().moves(), &hub);
        let running = (handover.legs.as_slice(), handover.calls.as_slice());
        let ways = (back, outbox.clone());
        let mut tunnel = sockets.tunnels().open((hub, tunnel), ways, running, handover.hubs + 1);
        let charged = tunnel.charge(&budget);
        let place = sockets
            .resumable()
            .enter_as((claim.id.clone(), met.clone()), &key.id, &outbox);
        place.heard(handover.sent);
        let held = charged.is_ok().then(|| budget.nothing(Kept::Moves));
        let mut conversation = Conversation::new(sockets.clone(), key, outbox, budget);
        let (received, sent) = (handover.received, handover.sent);
        conversation.go_on(&mut handover, tunnel);
        let mut session = PeerSession::arrived(conversation, outgoing, (place, received), met);
        session.moved = handover.moved_at();
        Some(Arriving {
            claim,
            session,
            left: LeftOver {
                received: sent,
                again: Vec::new(),
            },
            held,
            until: Instant::now() + ARRIVING,
        })
    }

    /// A message that its peer lacks.
    pub(crate) fn again(&mut self, from: &(HubId, u64), message: Bytes) {
        if let Some(arriving) = self.arriving.get_mut(from) {
            arriving.lacks(message);
        }
    }

    /// Everything of a session has come: it goes to the connection that has asked for it as soon as its spoke can be called here
    /// through every hub, or waits for another connection.
    pub(crate) fn whole(&mut self, from: &(HubId, u64)) {
        let Some(arriving) = self.arriving.remove(from) else {
            // What came before did not: that hub may take it for gone.
            let (hub, tunnel) = from.clone();
            return self.sockets.say(&hub, SessionMessage::Left { tunnel });
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
        let (taker, others, coming) = claim.met();
        session.came(coming);
        let scope = sockets.edge().scope();
        let stop = scope.stop.clone();
        scope.tasks.spawn(async move {
            stop.run_until_cancelled(settle(session, taker)).await;
        });
        others.into_iter().for_each(|other| departures::asked(sockets, other));
    }

    /// The hub that one comes from has broken off.
    pub(crate) fn broken(&mut self, from: &(HubId, u64)) {
        if let Some(arriving) = self.arriving.remove(from) {
            self.nobody_has(arriving.claim);
        }
    }

    /// Nothing comes from a hub any more.
    pub(crate) fn lost(&mut self, hub: &HubId) {
        self.announced.retain(|(from, _), _| from != hub);
        self.give_up(|from, _| from == hub);
    }

    fn give_up(&mut self, ends: impl Fn(&HubId, &Arriving) -> bool) {
        let gone = self.arriving.extract_if(|(from, _), arriving| ends(from, arriving));
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
