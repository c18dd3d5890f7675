//! The sessions that their peers can come back to, by ids that only the peers know.
//!
//! A session has a [`SessionPlace`] here for as long as it lives. Whoever claims it leaves a channel, and the task that
//! has the session, be it that of a connection or one that waits for the peer, hands it over when it next looks.
//!
//! Invariants
//! - A session is claimed with its id, which is 128 random bits, and with the key that opened it; to the holder of
//!   another key it does not even exist.
//! - A claim is checked before anybody gives anything up: a claim that cannot be met disturbs nobody.
//! - If two claim a session at once, the later one gets it, and the other is told to claim it again. So is anybody who
//!   claims a session that is on its way from hub to hub: it is somewhere then. Nobody may mistake a session that goes
//!   on for one that has ended.
//! - A claim by which the session has already come to a hub takes it nowhere again, however late a hub hears of it:
//!   nobody waits there.
//! - Nor does a claim with a lower count than its peer has acknowledged since: it took a long way, and the session goes
//!   on as it is.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use alkhub_calls::{Outbox, WrongCount};
use alkhub_protocol::{CallError, CloseCode, Code};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use crate::handover::{ClaimId, MetClaims};

/// The sessions of one hub, by the digests of their ids. Clones share one list.
#[derive(Clone, Default)]
pub(crate) struct ResumableSessions(Arc<Mutex<HashMap<Arc<str>, Arc<Door>>>>);

/// A session's place among them.
pub(crate) struct SessionPlace {
    sessions: ResumableSessions,
    door: Arc<Door>,
}

/// A session as it is handed over; its contents do not matter here.
pub(crate) type Handed = Box<dyn Any + Send>;

/// The result of a claim: the session, or why its peer cannot have it.
pub(crate) type Claimed = Result<Handed, CallError>;

/// The channel through which it comes.
pub(crate) type Taker = oneshot::Sender<Claimed>;

/// The point where a session is asked for.
struct Door {
    id: Arc<str>,
    digest: Arc<str>,
    key: Arc<str>,
    outbox: Outbox,
    /// The claims by which it has come to hubs.
    met: MetClaims,
    /// How many messages its peer has acknowledged.
    acknowledged: AtomicU64,
    asking: Mutex<Asking>,
    /// The waker of the task that has the session.
    waker: AtomicWaker,
}

/// Whether a session can be had, and who asks for it.
#[derive(Default)]
enum Asking {
    #[default]
    Nobody,
    /// The last one who asked.
    One(Taker),
    /// It is coming from another hub, or going there.
    OnItsWay,
}

// === impl ResumableSessions, Asking ===

impl ResumableSessions {
    /// Enters a session that the key with this id has opened.
    pub(crate) fn enter(&self, key: &Arc<str>, outbox: &Outbox) -> SessionPlace {
        let id = format!("{:032x}", rand::random::<u128>());
        let door = Door::new(id, MetClaims::default(), key, outbox);
        self.place(door)
    }

    /// The same for one that comes from another hub with its id and the claims that it has met; until
    /// [`SessionPlace::came`] nobody can claim it.
    pub(crate) fn enter_as(&self, id: String, met: MetClaims, key: &Arc<str>, outbox: &Outbox) -> SessionPlace {
        self.place(Door {
            asking: Mutex::new(Asking::OnItsWay),
            ..Door::new(id, met, key, outbox)
        })
    }

    fn place(&self, door: Door) -> SessionPlace {
        let door = Arc::new(door);
        self.0.lock().insert(door.digest.clone(), door.clone());
        SessionPlace {
            sessions: self.clone(),
            door,
        }
    }

    /// Whether a session with this digest is here, or on its way, for the holder of the key.
    pub(crate) fn has(&self, digest: &str, key: &str) -> bool {
        let door = self.0.lock().get(digest).cloned();
        door.is_some_and(|door| *door.key == *key && !door.outbox.is_closed())
    }

    /// Asks for a session by the digest of its id, for the holder of the key, who has received so many of its messages,
    /// and possibly for a claim of another hub. The session comes soon, or the sender is dropped if it ends meanwhile.
    /// `None` if there is no such session for this key, or it has already met the claim.
    ///
    /// # Errors
    /// The peer cannot have received what it says, or it lacks what is no longer kept: then the session ends, since
    /// nobody can come back to it. Or the session is on its way between two hubs, or its peer has acknowledged more
    /// than another hub's claim says: it can be asked for again.
    pub(crate) fn claim(
        &self,
        digest: &str,
        received: u64,
        key: &str,
        by: Option<&ClaimId>,
    ) -> Result<Option<oneshot::Receiver<Claimed>>, CallError> {
        let door = self.0.lock().get(digest).cloned();
        let door = door.filter(|door| *door.key == *key && !door.outbox.is_closed());
        let door = door.filter(|door| by.is_none_or(|claim| !door.met.has(claim)));
        let Some(door) = door else { return Ok(None) };
        let (taker, session) = oneshot::channel();
        let mut asking = door.asking.lock();
        if let Asking::OnItsWay = *asking {
            // The session's contents are not here yet, or no longer.
            return Err(on_its_way());
        }
        if by.is_some() && door.is_ahead_of(received) {
            return Err(overtaken());
        }
        if let Err(wrong) = door.outbox.can_resume(received) {
            return Err(refused(&door.outbox, wrong));
        }
        let other = std::mem::replace(&mut *asking, Asking::One(taker));
        drop(asking);
        other.refuse(on_its_way);
        door.waker.wake();
        Ok(Some(session))
    }
}

impl Asking {
    /// Refuses the session to whoever asked, if anybody did.
    fn refuse(self, error: fn() -> CallError) {
        if let Self::One(taker) = self {
            // Whoever asked may be gone.
            drop(taker.send(Err(error())));
        }
    }
}

impl fmt::Debug for ResumableSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The ids stay out of logs.
        f.debug_tuple("ResumableSessions").field(&self.0.lock().len()).finish()
    }
}

// === impl Door ===

impl Door {
    fn new(id: String, met: MetClaims, key: &Arc<str>, outbox: &Outbox) -> Self {
        Self {
            digest: digest(&id),
            id: id.into(),
            key: key.clone(),
            outbox: outbox.clone(),
            met,
            acknowledged: AtomicU64::new(0),
            asking: Mutex::default(),
            waker: AtomicWaker::new(),
        }
    }

    /// Whether the peer has acknowledged more than `received` messages.
    fn is_ahead_of(&self, received: u64) -> bool {
        self.acknowledged.load(Ordering::Acquire) > received
    }
}

// === impl SessionPlace ===

impl SessionPlace {
    /// The id by which the peer comes back.
    pub(crate) fn id(&self) -> &str {
        &self.door.id
    }

    /// Whoever asks for the session, if anybody does; the task is woken when somebody will.
    pub(crate) fn asked(&self, waker: &Waker) -> Option<Taker> {
        self.door.waker.register(waker);
        let mut asking = self.door.asking.lock();
        match std::mem::take(&mut *asking) {
            Asking::One(taker) => Some(taker),
            Asking::Nobody => None,
            Asking::OnItsWay => {
                *asking = Asking::OnItsWay;
                None
            }
        }
    }

    /// Notes that the peer has acknowledged `count` messages.
    pub(crate) fn acknowledged(&self, count: u64) {
        self.door.acknowledged.fetch_max(count, Ordering::AcqRel);
    }

    /// Whether it has acknowledged more than `received` messages.
    pub(crate) fn is_ahead_of(&self, received: u64) -> bool {
        self.door.is_ahead_of(received)
    }

    /// Notes that the session has arrived whole from another hub.
    pub(crate) fn came(&self) {
        *self.door.asking.lock() = Asking::Nobody;
    }

    /// Notes that the session goes to another hub: whoever asks for it here from now on is told to ask again.
    pub(crate) fn goes(&self) {
        let before = std::mem::replace(&mut *self.door.asking.lock(), Asking::OnItsWay);
        before.refuse(on_its_way);
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let mut sessions = self.sessions.0.lock();
        // It may meanwhile have come back from another hub and have a new place.
        let is_own = sessions
            .get(&self.door.digest)
            .is_some_and(|door| Arc::ptr_eq(door, &self.door));
        let door = if is_own {
            sessions.remove(&self.door.digest)
        } else {
            None
        };
        drop(sessions);
        drop(door);
        // Whoever asked for it learns of the end, outside the lock.
        drop(std::mem::take(&mut *self.door.asking.lock()));
    }
}

/// The digest by which hubs name a session to each other: the id is the peer's own, and belongs nowhere else.
pub(crate) fn digest(id: &str) -> Arc<str> {
    Sha256::digest(id.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into()
}

/// The answer to whoever asks for a session that does not exist, or belongs to another key.
pub(crate) fn ended() -> CallError {
    let message = "no session with this `resume.sessionId` waits for this key: it has ended; begin a new one";
    CallError::new(Code::NotFound, message)
}

/// The answer to whoever asks for a session that is on its way from one hub to another.
pub(crate) fn on_its_way() -> CallError {
    let message = "the session is on its way from one hub to another: try again";
    CallError::new(Code::Unavailable, message).retryable()
}

/// The answer to whoever asks for a session while a living hub could not be asked, or has not answered in time.
pub(crate) fn unsure() -> CallError {
    let message = "a hub that may have the session does not answer: try again";
    CallError::new(Code::Unavailable, message).retryable()
}

/// The answer to another hub whose claim counts fewer messages than the peer has acknowledged since.
pub(crate) fn overtaken() -> CallError {
    let message = "the peer has said since that it has received more: try again";
    CallError::new(Code::Unavailable, message).retryable()
}

/// The answer to a count that cannot be met. A session that no longer has what its peer lacks ends.
pub(crate) fn refused(outbox: &Outbox, wrong: WrongCount) -> CallError {
    match wrong {
        WrongCount::Future { .. } => {
            let message = format!("`resume.received` is wrong: {wrong}");
            CallError::new(Code::BadRequest, message)
        }
        WrongCount::Forgotten { .. } => {
            let message = format!("the session cannot be resumed: {wrong}; begin a new one");
            outbox.close(CloseCode::Policy, "its peer lacks messages that are not kept any more");
            CallError::new(Code::Conflict, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use alkhub_budget::Budgets;
    use alkhub_calls::{Limits, Outgoing};
    use alkhub_config::BudgetConfig;
    use prometheus::Registry;

    use super::*;

    fn outbox(key: &Arc<str>) -> (Outbox, Outgoing) {
        let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
        let limits = Limits {
            items: 10,
            bytes: 10_000,
        };
        alkhub_calls::outbox("s", limits, &budgets.key(key))
    }

    #[test]
    fn who_claims_a_session_that_is_on_its_way_is_told_to_try_again_and_it_goes_on() {
        let (sessions, key) = (ResumableSessions::default(), Arc::from("k"));
        let (outbox, mut outgoing) = outbox(&key);
        outgoing.count();
        let of_hub = |number| ClaimId {
            hub: "hub-a".parse().expect("an id"),
            number,
        };
        let mut met = MetClaims::default();
        met.add(of_hub(7), &[]);
        let place = sessions.enter_as("5f".to_owned(), met, &key, &outbox);
        let claim = |received| sessions.claim(&digest("5f"), received, &key, None);

        // It has received 40 messages on the hub it comes from, of which nothing is known here.
        let early = claim(40).expect_err("it has not come yet");
        assert!(early.retryable && early.code == Code::Unavailable, "{early}");
        assert!(place.asked(Waker::noop()).is_none() && claim(40).is_err());

        place.came();
        let again = sessions.claim(&digest("5f"), 0, &key, Some(&of_hub(7)));
        assert!(again.expect("nothing is wrong").is_none(), "nobody waits there");
        let mut earlier = claim(0).expect("it is here").expect("it lives");
        let mut asked = claim(0).expect("it is here").expect("it lives");
        let earlier = earlier.try_recv().expect("answered").expect_err("a later one gets it");
        assert!(earlier.retryable, "{earlier}");
        place.acknowledged(3);
        let by_hub = |received| sessions.claim(&digest("5f"), received, &key, Some(&of_hub(8)));
        let overtaken = by_hub(2).expect_err("its peer has said more since");
        assert!(overtaken.retryable && !outbox.is_closed(), "{overtaken}");
        place.goes();
        let late = asked.try_recv().expect("answered").expect_err("it goes elsewhere");
        assert!(late.retryable, "{late}");
        assert!(claim(0).expect_err("it goes").retryable);
        assert!(!outbox.is_closed());
        drop(place);
        assert!(claim(0).expect("nothing is wrong").is_none(), "it is gone");
    }
}
