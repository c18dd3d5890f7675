//! What is left of a session that has moved to another hub: the calls that were running here when it moved.
//!
//! They end where they were entered: their deadlines, their records and whoever waits for their answers are here. The
//! peer's messages about them come through the tunnel, and are handled as they would have been.
//!
//! A session is listed here from the moment when another hub asks for it: between the connection that gave it up and
//! its tunnel nothing else knows of it.
//!
//! Invariants
//! - Messages from the tunnel are handled in order, by one task. Those that wait for it are bounded, and charged to the
//!   session's key: beyond either limit the tunnel breaks.
//! - It ends when nothing of the session runs here and nobody is sent here any more; when the session has ended where
//!   it went, after the messages that the peer had sent by then; with that hub; and with the session's key.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Context;

use alkhub_budget::{Budget, Exhausted, Held, Kept};
use alkhub_calls::Caller;
use alkhub_edge::open::{Closeable, Closing};
use alkhub_protocol::HubId;
use alkhub_queue::{Limits, Queue};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::handover::ClaimId;
use crate::signs::Signs;

/// How much of one session may wait for its task, not counting one message.
const WAITING: Limits = Limits {
    items: 8_192,
    bytes: 8 * 1024 * 1024,
};

const LOOK: u8 = 1;
const END: u8 = 2;
const OVER: u8 = 4;

/// The sessions that have left this hub. Clones share one list.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeftSessions(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    /// By the numbers of their tunnels.
    tunnels: HashMap<u64, Arc<LeftSession>>,
    /// By the claims for which they were given up.
    claims: HashMap<ClaimId, Arc<LeftSession>>,
}

/// A session's place among them.
#[derive(Debug)]
pub(crate) struct LeftGuard {
    sessions: LeftSessions,
    session: Arc<LeftSession>,
}

/// One of them, as others see it.
#[derive(Debug)]
pub(crate) struct LeftSession {
    /// The claim of the hub that goes on with it.
    pub(crate) claim: ClaimId,
    /// The number of the tunnel.
    pub(crate) tunnel: u64,
    waiting: Mutex<Waiting>,
    signs: Signs,
}

/// A message of the peer about a call that runs here, sent on the hub where its session is now.
#[derive(Clone, Debug)]
pub(crate) struct PeerMessage {
    /// The message; only its beginning if it is over the limit.
    pub(crate) message: Bytes,
    /// Its size in bytes, as the peer sent it.
    pub(crate) size: usize,
}

/// The messages of the peer that were not taken yet, and their charge.
#[derive(Debug)]
struct Waiting {
    queue: Queue<(PeerMessage, usize)>,
    held: Held,
}

/// The requests to a session that has left.
#[derive(Debug, Default)]
pub(crate) struct LeftSigns {
    /// The rights of its key may have changed.
    pub(crate) look: bool,
    /// It is to end.
    pub(crate) end: bool,
    /// Its peer sends nothing more: it is to end once everything that came before has been handled.
    pub(crate) over: bool,
    /// The next message of its peer.
    pub(crate) message: Option<PeerMessage>,
}

// === impl LeftSessions ===

impl LeftSessions {
    /// Enters a session that is to go to another hub, with its claim, the number of its tunnel, and the budget of its
    /// key.
    pub(crate) fn enter(&self, claim: ClaimId, tunnel: u64, budget: &Budget) -> LeftGuard {
        let session = Arc::new(LeftSession {
            claim,
            tunnel,
            waiting: Mutex::new(Waiting {
                queue: Queue::new(),
                held: budget.nothing(Kept::Moves),
            }),
            signs: Signs::default(),
        });
        let mut list = self.0.lock();
        list.tunnels.insert(tunnel, session.clone());
        list.claims.insert(session.claim.clone(), session.clone());
        drop(list);
        LeftGuard {
            sessions: self.clone(),
            session,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().tunnels.len()
    }

    /// Whether a claim of a hub is being met, or was: a hub that repeats it must not be given the session twice.
    pub(crate) fn meets(&self, claim: &ClaimId) -> bool {
        let list = self.0.lock();
        let met = list.claims.get(claim);
        met.is_some_and(|left| !left.is_ended())
    }

    /// The session that went to this hub through this tunnel.
    pub(crate) fn get(&self, to: &HubId, tunnel: u64) -> Option<Arc<LeftSession>> {
        let left = self.0.lock().tunnels.get(&tunnel).cloned();
        left.filter(|left| *left.to() == *to)
    }

    /// Ends those that went to a lost hub.
    pub(crate) fn lost(&self, to: &HubId) {
        let all: Vec<_> = self.0.lock().tunnels.values().cloned().collect();
        all.iter().filter(|left| *left.to() == *to).for_each(|left| left.end());
    }
}

// === impl LeftGuard ===

impl LeftGuard {
    /// As others see it.
    pub(crate) fn session(&self) -> Arc<LeftSession> {
        self.session.clone()
    }
}

impl Deref for LeftGuard {
    type Target = LeftSession;

    fn deref(&self) -> &LeftSession {
        &self.session
    }
}

impl Drop for LeftGuard {
    fn drop(&mut self) {
        let mut list = self.sessions.0.lock();
        list.tunnels.remove(&self.session.tunnel);
        let claim = &self.session.claim;
        if list
            .claims
            .get(claim)
            .is_some_and(|left| Arc::ptr_eq(left, &self.session))
        {
            list.claims.remove(claim);
        }
    }
}

// === impl LeftSession ===

impl LeftSession {
    /// The hub that goes on with it.
    pub(crate) fn to(&self) -> &HubId {
        &self.claim.hub
    }

    /// Takes a message that the peer sent about a call that runs here.
    pub(crate) fn received(&self, message: PeerMessage) {
        let added = self.waiting.lock().add(message);
        if let Err(reason) = added {
            tracing::warn!(hub.id = %self.to(), reason, "what a spoke answers on another hub has no room");
            return self.end();
        }
        self.signs.wake();
    }

    /// Asks for its end.
    pub(crate) fn end(&self) {
        self.signs.raise(END);
    }

    /// Asks for its end once what was received before has been handled.
    pub(crate) fn over(&self) {
        self.signs.raise(OVER);
    }

    /// Whether it is to end.
    pub(crate) fn is_ended(&self) -> bool {
        self.signs.has(END | OVER)
    }

    /// The present requests; the task is woken when there are more.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> LeftSigns {
        self.signs.wake_by(cx.waker());
        let (look, end, over) = (self.signs.take(LOOK), self.signs.has(END), self.signs.has(OVER));
        // Taken after the sign: whatever was received before that is there.
        let message = self.waiting.lock().pop();
        LeftSigns {
            look,
            end,
            over: over && message.is_none(),
            message,
        }
    }
}

// === impl Waiting ===

impl Waiting {
    /// Adds a message of the peer (the caller wakes its task), or says why there is no room for it.
    fn add(&mut self, message: PeerMessage) -> Result<(), String> {
        let bytes = message.message.len();
        let room = self.queue.room(bytes, WAITING);
        room.map_err(|_| "it comes faster than it is taken".to_owned())?;
        let charged = self.held.follow(self.queue.bytes() + bytes);
        charged.map_err(|exhausted: Exhausted| exhausted.to_string())?;
        // The task is woken by its signs instead.
        drop(self.queue.add((message, bytes)));
        Ok(())
    }

    fn pop(&mut self) -> Option<PeerMessage> {
        let (message, _) = self.queue.pop()?;
        self.held.ease(self.queue.bytes());
        Some(message)
    }
}

impl Closeable for LeftSession {
    fn recheck(&self, _: &Arc<Caller>) {
        self.signs.raise(LOOK);
    }

    /// Its calls end by themselves.
    fn drain(&self) {}

    fn close(&self, _: Closing) {
        self.end();
    }

    fn kill(&self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use alkhub_budget::Budgets;
    use alkhub_config::BudgetConfig;
    use prometheus::Registry;

    use super::*;

    fn claim(number: u64) -> ClaimId {
        ClaimId {
            hub: "b".parse().expect("an id"),
            number,
        }
    }

    #[test]
    fn what_the_key_may_not_keep_breaks_the_tunnel_and_all_of_it_is_given_back() {
        let config = BudgetConfig {
            key_bytes: 64 * 1024,
            ..BudgetConfig::default()
        };
        let budgets = Budgets::new(&config, &Registry::new()).expect("a fresh registry");
        let budget = budgets.key(&Arc::from("k"));
        let sessions = LeftSessions::default();
        let left = sessions.enter(claim(7), 1, &budget);
        let message = PeerMessage {
            message: Bytes::from(vec![0; 30_000]),
            size: 30_000,
        };

        left.received(message.clone());
        left.received(message.clone());
        assert!(budget.used() >= 60_000 && !left.is_ended());
        left.received(message);

        assert!(left.is_ended());
        drop(left);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_claim_is_met_once_until_what_met_it_has_ended() {
        let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
        let (sessions, budget) = (LeftSessions::default(), budgets.key(&Arc::from("key")));
        let first = sessions.enter(claim(7), 1, &budget);

        assert!(sessions.meets(&claim(7)) && !sessions.meets(&claim(8)));
        sessions.lost(&claim(7).hub);
        assert!(!sessions.meets(&claim(7)), "nobody hears of what it says");
        let second = sessions.enter(claim(7), 2, &budget);
        drop(first);
        assert!(sessions.meets(&claim(7)));
        drop(second);
        assert!(!sessions.meets(&claim(7)) && sessions.len() == 0);
    }
}
