//! The sessions that this hub has asked the others for because their peers have come here.
//!
//! Nobody keeps track of where a session is: a hub that a peer asks for one asks every living hub. That costs a few
//! bytes per hub whenever a peer comes back elsewhere, instead of a record in Redis for each open session.
//!
//! Invariants
//! - A claim ends once: with the session, with a final refusal, or when every hub has said that it does not have the
//!   session, is gone, or has not answered within [`PATIENCE`]. If a living hub could not be asked, or has not
//!   answered, the peer is told to try again ([`crate::asked_hubs`]).
//! - A hub that says that the session is on its way from there ends no claim: the hub that the session goes to has put
//!   the claim aside.
//! - When a hub asks for a session for which this hub is asking itself, it is answered once that has ended: the later
//!   claim gets the session.
//! - A session that a hub gives late, for a claim that has run out of time, is taken all the same ([`Claims::given`]).
//!   Until that hub has answered, this hub tells nobody that there is no such session.
//! - A claim counts as coming from when it is made until the session that it brings has its place ([`ComingGuard`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_calls::{Moves, SessionMessage};
use alkhub_edge::Key;
use alkhub_protocol::frame::session::ResumeRequest;
use alkhub_protocol::{CallError, HubId};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::asked_hubs::AskedHubs;
use crate::coming::{Coming, ComingGuard};
use crate::handover::ClaimId;
use crate::resumable::{self, Claimed, Taker, digest};
use crate::unanswered::UnansweredClaims;

/// Time for the other hubs to answer. After it the peer begins anew, so that a hub that hangs keeps nobody waiting.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// A hub that is asked gives up this much sooner: it hears of the claim later than the asking hub begins to count, and
/// what it gives must still arrive. It cannot know how much later; a session given in vain waits where it arrives.
const MARGIN: Duration = Duration::from_secs(1);

/// The claims of one hub.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    list: Mutex<List>,
    /// Notified of another claim, which may be the first to run out of time.
    pub(crate) changed: Notify,
    /// Counts claims, and sessions that they bring.
    coming: Coming,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    claims: HashMap<u64, SessionClaim>,
    /// Claims that have run out of time.
    unanswered: UnansweredClaims<WantedSession>,
}

/// The session that a claim is for.
#[derive(Clone, Debug)]
pub(crate) struct WantedSession {
    /// Its id, as its peer knows it.
    pub(crate) id: String,
    /// The key with which the peer came.
    pub(crate) key: Arc<Key>,
}

/// One claim.
#[derive(Debug)]
pub(crate) struct SessionClaim {
    /// The number by which the other hubs name it.
    pub(crate) number: u64,
    pub(crate) wanted: WantedSession,
    /// Where the session goes.
    taker: Taker,
    /// Other hubs that ask for the same session.
    pub(crate) others: Vec<Asked>,
    digest: Arc<str>,
    received: u64,
    hubs: AskedHubs,
    until: Instant,
    coming: ComingGuard,
}

/// What remains of a claim whose session has arrived.
pub(crate) struct MetClaim {
    /// Where the session goes.
    pub(crate) taker: Taker,
    /// The claims of other hubs that arrived meanwhile.
    pub(crate) others: Vec<Asked>,
    /// Counts the session until it has its place.
    pub(crate) coming: ComingGuard,
}

/// The claim of another hub.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) claim: ClaimId,
    pub(crate) digest: String,
    pub(crate) received: u64,
    pub(crate) key: String,
    /// When this hub was asked.
    pub(crate) at: Instant,
}

// === impl Claims ===

impl Claims {
    /// Asks every other hub for a session; `None` if there is no other hub.
    pub(crate) fn ask(
        &self,
        moves: &Moves,
        request: &ResumeRequest,
        key: &Arc<Key>,
    ) -> Option<oneshot::Receiver<Claimed>> {
        let hubs = moves.others();
        if hubs.is_empty() {
            return None;
        }
        let digest = digest(&request.session_id);
        let (taker, session) = oneshot::channel();
        let wanted = WantedSession {
            id: request.session_id.clone(),
            key: key.clone(),
        };
        let mut claim = SessionClaim {
            received: request.received,
            hubs: AskedHubs::new(&hubs),
            until: Instant::now() + PATIENCE,
            ..SessionClaim::new(wanted, digest, taker, self.coming.enter())
        };
        {
            let mut list = self.list.lock();
            list.last += 1;
            claim.number = list.last;
            for hub in &hubs {
                claim.ask(moves, hub);
            }
            if claim.hubs.are_done() {
                claim.until = Instant::now();
            }
            list.claims.insert(claim.number, claim);
        }
        self.changed.notify_one();
        Some(session)
    }

    /// Claims that wait for an answer, and sessions on their way here.
    pub(crate) fn coming(&self) -> usize {
        self.coming.len()
    }

    /// A hub does not have the session; returns the claim if that was the last hub it waited for.
    pub(crate) fn unknown(&self, number: u64, hub: &HubId) -> Option<SessionClaim> {
        let mut list = self.list.lock();
        list.unanswered.answered(number, hub);
        let claim = list.claims.get_mut(&number)?;
        claim.hubs.answered(hub);
        if claim.hubs.are_done() {
            list.claims.remove(&number)
        } else {
            None
        }
    }

    /// A hub had the session, which may be available where it is going; returns the claim if it waits for no other hub.
    pub(crate) fn deferred(&self, number: u64, hub: &HubId, error: CallError) -> Option<SessionClaim> {
        if let Some(claim) = self.list.lock().claims.get_mut(&number) {
            claim.hubs.may_have(hub, error);
        }
        self.unknown(number, hub)
    }

    /// The claim came back from the way to a hub, which has not received it; returns the claim if it waits for no other
    /// hub. If nobody listens for the hub, it is asked once more a little later; if nobody does then, it is dead.
    pub(crate) fn returned(&self, number: u64, hub: &HubId, nobody_listens: bool) -> Option<SessionClaim> {
        if !nobody_listens {
            return self.deferred(number, hub, resumable::unsure());
        }
        let is_asked_again = {
            let mut list = self.list.lock();
            let claim = list.claims.get_mut(&number);
            claim.is_some_and(|claim| claim.hubs.asks_later(hub))
        };
        if is_asked_again {
            self.changed.notify_one();
            return None;
        }
        self.unknown(number, hub)
    }

    /// A hub has the session, and refuses it; returns the claim if it waits for that hub.
    pub(crate) fn answered(&self, number: u64, hub: &HubId) -> Option<SessionClaim> {
        let mut list = self.list.lock();
        list.unanswered.answered(number, hub);
        list.take(number, hub)
    }

    /// A hub gives the session; returns the claim that it is for, if that waits for the hub, or did when it ran out of
    /// time. In the latter case the session waits for its peer to ask again.
    pub(crate) fn given(&self, number: u64, hub: &HubId) -> Option<SessionClaim> {
        let mut list = self.list.lock();
        let Some((digest, wanted)) = list.unanswered.take(number, hub) else {
            return list.take(number, hub);
        };
        let (nobody, _) = oneshot::channel();
        Some(SessionClaim {
            number,
            ..SessionClaim::new(wanted, digest, nobody, self.coming.enter())
        })
    }

    /// Messages between this hub and that one were lost; returns the claims that waited only for that hub. A living hub
    /// may not have heard of a claim and is asked once more; after that nobody knows whether it has the session.
    pub(crate) fn lost(&self, moves: &Moves, hub: &HubId) -> Vec<SessionClaim> {
        let lives = moves.others().contains(hub);
        let mut list = self.list.lock();
        list.unanswered.lost(hub);
        for claim in list.claims.values_mut() {
            if claim.hubs.lost(hub, lives) {
                claim.ask(moves, hub);
            }
        }
        let over = list.claims.iter().filter(|(_, claim)| claim.hubs.are_done());
        let over: Vec<u64> = over.map(|(number, _)| *number).collect();
        over.into_iter()
            .filter_map(|number| list.claims.remove(&number))
            .collect()
    }

    /// Asks hubs again for which it is time. Returns the claims that have run out of time, or wait for no hub any more;
    /// those that a hub has not answered are kept for that hub.
    pub(crate) fn take_expired(&self, moves: &Moves) -> Vec<SessionClaim> {
        let now = Instant::now();
        let mut list = self.list.lock();
        let List { claims, unanswered, .. } = &mut *list;
        unanswered.expire();
        for claim in claims.values_mut() {
            for hub in claim.hubs.take_due(now) {
                claim.ask(moves, &hub);
            }
        }
        let over = claims.extract_if(|_, claim| claim.until <= now || claim.hubs.are_done());
        over.map(|(number, mut claim)| {
            let silent = claim.hubs.give_up();
            if !silent.is_empty() {
                unanswered.add(number, &claim.digest, silent, claim.wanted.clone());
            }
            claim
        })
        .collect()
    }

    /// Waits until a claim runs out of time, has been kept for long enough, or is to be repeated. Dropping the future
    /// loses nothing.
    pub(crate) async fn expiry(&self) {
        loop {
            let changed = self.changed.notified();
            let next = self.list.lock().next_expiry();
            match next {
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(next) => return,
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Whether this hub is asking for a session with this digest, or a hub that it asked may still give it.
    pub(crate) fn has(&self, moves: &Moves, digest: &str) -> bool {
        let others = moves.others();
        let list = self.list.lock();
        let asks = list.claims.values().any(|claim| *claim.digest == *digest);
        asks || list.unanswered.has(digest, |hub| others.contains(hub))
    }

    /// Puts aside another hub's request if this hub is asking for the same session; returns it otherwise.
    pub(crate) fn put_aside(&self, asked: Asked) -> Option<Asked> {
        let mut list = self.list.lock();
        let own = list.claims.values_mut().find(|claim| *claim.digest == *asked.digest);
        match own {
            Some(own) => {
                own.others.push(asked);
                None
            }
            None => Some(asked),
        }
    }
}

// === impl List ===

impl List {
    /// Removes the claim if it waits for the hub.
    fn take(&mut self, number: u64, hub: &HubId) -> Option<SessionClaim> {
        let waits = self.claims.get(&number)?.hubs.wait_for(hub);
        if waits { self.claims.remove(&number) } else { None }
    }

    fn next_expiry(&self) -> Option<Instant> {
        let ends = self.claims.values().map(|claim| claim.hubs.due_by(claim.until));
        ends.chain(self.unanswered.next_expiry()).min()
    }
}

// === impl SessionClaim, Asked ===

impl SessionClaim {
    /// A claim that does not ask anybody yet.
    fn new(wanted: WantedSession, digest: Arc<str>, taker: Taker, coming: ComingGuard) -> Self {
        Self {
            number: 0,
            wanted,
            taker,
            others: Vec::new(),
            digest,
            received: 0,
            hubs: AskedHubs::default(),
            until: Instant::now(),
            coming,
        }
    }

    /// The digest by which the session is asked for.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Asks a hub for the session. A hub that cannot be asked is not waited for, but may have it: that there is no way
    /// to it now says nothing about it.
    fn ask(&mut self, moves: &Moves, hub: &HubId) {
        let message = SessionMessage::Claim {
            claim: self.number,
            digest: self.digest.to_string(),
            received: self.received,
            key: self.wanted.key.id.to_string(),
        };
        if moves.say(hub, message).is_err() {
            self.hubs.may_have(hub, resumable::unsure());
        }
    }

    /// The error for the peer if a hub that has not given the session may have it.
    pub(crate) fn unsure(&self) -> Option<CallError> {
        self.hubs.unsure()
    }

    /// Ends it with an error, which the peer gets unless it is gone; returns what other hubs have asked meanwhile.
    pub(crate) fn refuse(self, error: CallError) -> Vec<Asked> {
        drop(self.taker.send(Err(error)));
        self.others
    }

    /// Ends it with the session, which has arrived.
    pub(crate) fn met(self) -> MetClaim {
        MetClaim {
            taker: self.taker,
            others: self.others,
            coming: self.coming,
        }
    }
}

impl Asked {
    /// Whether the hub that asked no longer waits for an answer.
    pub(crate) fn is_given_up(&self) -> bool {
        self.at.elapsed() >= PATIENCE - MARGIN
    }
}
