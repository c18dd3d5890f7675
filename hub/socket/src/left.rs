//! What is left here of a session that another hub goes on with: the calls that ran when it moved.
//!
//! They end where they were entered: their deadlines, their records and whoever waits for their answers are here. What the
//! peer says of them comes through the tunnel, and goes the way that it would have gone.
//!
//! A session stands here from the moment at which another hub asks for it: between the connection that gave it up and its tunnel
//! nothing else knows of it.
//!
//! Invariants
//! - What comes through the tunnel is taken in order, by one task, and what waits for it has a bound: over it the tunnel
//!   breaks.
//! - It ends when nothing of the session runs here and nobody is sent here any more; when the session has ended where it went,
//!   after what the peer had said by then; with that hub; and with the session's key.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Context;

use alkhub_calls::Caller;
use alkhub_edge::open::{Closeable, Closing};
use alkhub_protocol::HubId;
use alkhub_queue::{Limits, Queue};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::signs::Signs;

/// What of one session waits for its task at most, one message aside.
const WAITING: Limits = Limits {
    items: 8_192,
    bytes: 8 * 1024 * 1024,
};

const LOOK: u8 = 1;
const END: u8 = 2;
const OVER: u8 = 4;

/// What is left of sessions here, by the numbers of their tunnels. Clones are of one list.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeftSessions(Arc<Mutex<HashMap<u64, Arc<LeftSession>>>>);

/// A session's place among them.
#[derive(Debug)]
pub(crate) struct LeftGuard {
    sessions: LeftSessions,
    session: Arc<LeftSession>,
}

/// What is left of one, as others see it.
#[derive(Debug)]
pub(crate) struct LeftSession {
    /// The hub that goes on with it.
    pub(crate) to: HubId,
    /// The number of the tunnel.
    pub(crate) tunnel: u64,
    waiting: Mutex<Queue<(Bytes, usize)>>,
    signs: Signs,
}

/// What a session that has left is asked for.
#[derive(Debug, Default)]
pub(crate) struct LeftSigns {
    /// Its key may allow something else.
    pub(crate) look: bool,
    /// It is to end.
    pub(crate) end: bool,
    /// Its peer says no more: it is to end when what was said has been answered.
    pub(crate) over: bool,
    /// The next thing that its peer says.
    pub(crate) message: Option<Bytes>,
}

// === impl LeftSessions ===

impl LeftSessions {
    /// Enters a session that is to go to another hub by a tunnel of this number.
    pub(crate) fn enter(&self, to: HubId, tunnel: u64) -> LeftGuard {
        let session = Arc::new(LeftSession {
            to,
            tunnel,
            waiting: Mutex::default(),
            signs: Signs::default(),
        });
        self.0.lock().insert(tunnel, session.clone());
        LeftGuard {
            sessions: self.clone(),
            session,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// The session that went to this hub by this tunnel.
    pub(crate) fn get(&self, to: &HubId, tunnel: u64) -> Option<Arc<LeftSession>> {
        let left = self.0.lock().get(&tunnel).cloned();
        left.filter(|left| left.to == *to)
    }

    /// Ends those that went to a hub.
    pub(crate) fn lost(&self, to: &HubId) {
        let all: Vec<_> = self.0.lock().values().cloned().collect();
        all.iter().filter(|left| left.to == *to).for_each(|left| left.end());
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
        self.sessions.0.lock().remove(&self.session.tunnel);
    }
}

// === impl LeftSession ===

impl LeftSession {
    /// The peer has said something of a call here.
    pub(crate) fn heard(&self, message: Bytes) {
        let bytes = message.len();
        let mut waiting = self.waiting.lock();
        if waiting.room(bytes, WAITING).is_err() {
            drop(waiting);
            tracing::warn!(hub.id = %self.to, "what a spoke answers on another hub comes faster than it is taken");
            return self.end();
        }
        // The task is woken below.
        drop(waiting.add((message, bytes)));
        drop(waiting);
        self.signs.wake();
    }

    /// It is to end.
    pub(crate) fn end(&self) {
        self.signs.raise(END);
    }

    /// It is to end when what was heard before has been taken.
    pub(crate) fn over(&self) {
        self.signs.raise(OVER);
    }

    /// Whether it is to end.
    pub(crate) fn is_ended(&self) -> bool {
        self.signs.has(END | OVER)
    }

    /// What it is asked for now; the task is woken when it is asked for more.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> LeftSigns {
        self.signs.wake_by(cx.waker());
        let (look, end, over) = (self.signs.take(LOOK), self.signs.has(END), self.signs.has(OVER));
        // After the sign: what was heard before it is there.
        let message = self.waiting.lock().pop().map(|(message, _)| message);
        LeftSigns {
            look,
            end,
            over: over && message.is_none(),
            message,
        }
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
