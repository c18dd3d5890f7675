//! The mobility of one WebSocket's peer: how it could get to another hub, and whether it is to.
//!
//! Invariants
//! - A peer counts among those that are to go for as long as it is to go, and no longer than its socket exists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;

/// How a socket's peer could get to another hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mobility {
    /// Unknown yet: it has sent nothing, or only a `__hello` that was refused.
    Silent,
    /// Its session is on its way here.
    Coming,
    /// It has nothing that outlives the connection: it can be let go, and comes back wherever its load balancer sends
    /// it.
    Plain,
    /// It has a session on this hub that does: it would come back for that.
    Session,
    /// The same, but it moves the session to another hub when asked to.
    Moves,
}

/// The departure of one socket's peer: whether it is to go, and how it could.
#[derive(Debug)]
pub(crate) struct Departure {
    clock: Arc<Clock>,
    /// A [`Mobility`].
    mobility: AtomicU8,
    state: Mutex<DepartureState>,
    /// The number of the hub's sockets whose peers are to go.
    leaving: Arc<AtomicUsize>,
    /// Whether it was ever asked to move.
    was_asked: AtomicBool,
    /// Where it is to go, if it was asked to move to a certain place.
    target: Mutex<Option<String>>,
    /// When the session that it serves came from another hub at that hub's request.
    moved: Mutex<Option<Instant>>,
}

/// How far a departure has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DepartureState {
    /// The peer is not to go.
    Stays,
    /// It was let go at this tick: it ends once nothing is under way.
    LetGo(u32),
    /// It was asked to move at this tick.
    Asked(u32),
    /// The socket has ended.
    Over,
}

// === impl Departure ===

impl Departure {
    /// For a socket that has just been opened; `leaving` counts the hub's sockets whose peers are to go.
    pub(crate) fn new(clock: &Arc<Clock>, leaving: &Arc<AtomicUsize>) -> Self {
        Self {
            clock: clock.clone(),
            mobility: AtomicU8::new(Mobility::Silent as u8),
            state: Mutex::new(DepartureState::Stays),
            leaving: leaving.clone(),
            was_asked: AtomicBool::new(false),
            target: Mutex::default(),
            moved: Mutex::default(),
        }
    }

    /// Notes how the peer could get to another hub.
    pub(crate) fn set_mobility(&self, mobility: Mobility) {
        self.mobility.store(mobility as u8, Ordering::Release);
    }

    /// Whether that is how it could.
    pub(crate) fn is(&self, mobility: Mobility) -> bool {
        self.mobility.load(Ordering::Acquire) == mobility as u8
    }

    /// Whether nothing is lost when the connection ends between two messages.
    pub(crate) fn is_free(&self) -> bool {
        self.is(Mobility::Silent) || self.is(Mobility::Plain)
    }

    /// Notes when the session that it serves came from another hub, if that hub had asked for it.
    pub(crate) fn has_moved(&self, at: Option<Instant>) {
        *self.moved.lock() = at;
    }

    /// When that was.
    pub(crate) fn moved(&self) -> Option<Instant> {
        *self.moved.lock()
    }

    /// Lets the peer go; false if it is to go already, or the socket has ended.
    pub(crate) fn let_go(&self) -> bool {
        let mut state = self.state.lock();
        let is_new = *state == DepartureState::Stays;
        if is_new {
            *state = DepartureState::LetGo(self.clock.now());
            self.leaving.fetch_add(1, Ordering::AcqRel);
        }
        is_new
    }

    /// Asks the peer to move; returns whether it is to be told so now, or `None` if it can no longer be asked.
    pub(crate) fn ask(&self, target: Option<&str>) -> Option<bool> {
        let mut state = self.state.lock();
        match *state {
            DepartureState::Asked(at) if !self.clock.is_past(at, self.clock.moving) => return Some(false),
            DepartureState::LetGo(_) | DepartureState::Over => return None,
            DepartureState::Asked(_) => {}
            DepartureState::Stays => {
                self.leaving.fetch_add(1, Ordering::AcqRel);
            }
        }
        *state = DepartureState::Asked(self.clock.now());
        *self.target.lock() = target.map(str::to_owned);
        self.was_asked.store(true, Ordering::Release);
        Some(true)
    }

    /// Where it is to move, if it was asked to move to a certain place; asking clears it.
    pub(crate) fn take_target(&self) -> Option<String> {
        self.target.lock().take()
    }

    /// Whether it was ever asked to move.
    pub(crate) fn was_asked(&self) -> bool {
        self.was_asked.load(Ordering::Acquire)
    }

    /// Whether it was asked to move and still has time for it.
    pub(crate) fn is_moving(&self) -> bool {
        matches!(*self.state.lock(), DepartureState::Asked(at) if !self.clock.is_past(at, self.clock.moving))
    }

    /// Whether it has not gone within its time.
    pub(crate) fn is_overdue(&self) -> bool {
        match *self.state.lock() {
            DepartureState::Asked(at) => self.clock.is_past(at, self.clock.moving),
            DepartureState::LetGo(at) => self.clock.is_past(at, self.clock.patience),
            DepartureState::Stays | DepartureState::Over => false,
        }
    }

    /// Lets the peer stay after all; false if it was not to go.
    pub(crate) fn keep(&self) -> bool {
        let mut state = self.state.lock();
        let was_leaving = matches!(*state, DepartureState::LetGo(_) | DepartureState::Asked(_));
        if was_leaving {
            *state = DepartureState::Stays;
            self.leaving.fetch_sub(1, Ordering::AcqRel);
        }
        was_leaving
    }

    /// The socket has ended.
    pub(crate) fn over(&self) {
        let before = std::mem::replace(&mut *self.state.lock(), DepartureState::Over);
        if let DepartureState::LetGo(_) | DepartureState::Asked(_) = before {
            self.leaving.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
