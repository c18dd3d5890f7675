//! The tunnel to a hub that a session has left: calls that were running there when it moved go on through it.
//!
//! Invariants
//! - The peer's messages about such a call go to the hub that has it, as they came; that hub's messages reach the peer
//!   in order.
//! - A call that the spoke runs for the other hub occupies a slot of its instance here, until that hub says that it is
//!   over.
//! - A call that comes through the tunnel and for which the session's key has no room is answered in place of the spoke,
//!   which does not get it.
//! - When the tunnel breaks, every call in it ends: the spoke is told to stop, and the peer's own calls fail. The other
//!   hub is told of every end that it did not cause itself: it may be alive, with callers that wait.

mod guard;
mod running;
#[cfg(test)]
mod tests;
mod tunnels;

use std::fmt;

use alkhub_budget::Exhausted;
use alkhub_calls::{Full, Moves, Outbox, PassedKind, PassedMessage, SessionMessage, TunnelId};
use alkhub_edge::error::unanswered;
use alkhub_protocol::frame::encode;
use alkhub_protocol::{CallError, CloseCode, Dialect, HubId};
use parking_lot::Mutex;

pub(crate) use self::guard::{TunnelGuard, TunnelParts};
use self::running::RunningCalls;
pub(crate) use self::tunnels::Tunnels;

/// Why calls end with a tunnel.
const BROKEN: &str = "the hub that the session has left is gone, and the call with it";

/// One tunnel, on the hub that has the session.
#[derive(Debug)]
pub(crate) struct Tunnel {
    id: TunnelId,
    back: Way,
    /// The number of hubs between this one and its calls that are furthest away.
    hubs: u32,
    /// The outbox of the session here.
    outbox: Outbox,
    running: Mutex<RunningCalls>,
}

/// The way from a tunnel to the hub at its other end.
pub(crate) struct Way(Box<dyn Fn(SessionMessage) -> Result<(), Full> + Send + Sync>);

// === impl Tunnel ===

impl Tunnel {
    /// Takes a message of the other hub for the peer.
    pub(crate) fn deliver(&self, passed: PassedMessage) {
        let call = (passed.kind == PassedKind::Call).then(|| passed.id.clone()).flatten();
        let noted = {
            let mut running = self.running.lock();
            if running.is_closed() {
                // It was on its way when the tunnel closed, and its end has been told.
                return;
            }
            match (passed.kind, &passed.id) {
                (PassedKind::Call, Some(leg)) => running.begin_leg(leg),
                (PassedKind::End | PassedKind::LastEnd, Some(call)) => {
                    running.end_call(call);
                    Ok(())
                }
                _ => Ok(()),
            }
        };
        if let (Err(exhausted), Some(leg)) = (noted, &call) {
            return self.refuse(leg, exhausted);
        }
        self.pass(passed);
        // Whatever closed the tunnel meanwhile has ended the call before the spoke had it.
        if let Some(leg) = call
            && self.running.lock().is_closed()
        {
            self.end_leg(&leg, BROKEN);
        }
    }

    /// A call that the spoke ran is over on the other hub.
    pub(crate) fn done(&self, leg: &str) {
        self.running.lock().end_leg(leg);
        self.outbox.leg_ended(leg);
    }

    /// The other hub has closed the tunnel: nothing runs there any more.
    pub(crate) fn closed(&self) {
        // Not in the condition: the lock would be held while the session's queue is locked, and a session that leaves
        // locks the two in the opposite order.
        let ended = self.running.lock().close();
        if let Some(ended) = ended {
            self.end(ended, BROKEN);
        }
    }

    /// Breaks the tunnel: nothing passes any more, and the other hub may not know.
    pub(crate) fn breaks(&self) {
        self.breaks_for(BROKEN);
    }

    fn breaks_for(&self, reason: &str) {
        let ended = self.running.lock().close();
        if let Some(ended) = ended {
            self.leave();
            self.end(ended, reason);
        }
    }

    /// Tells the other hub that nothing comes from here any more.
    fn leave(&self) {
        let left = SessionMessage::Left { tunnel: self.id.number };
        if (self.back.0)(left).is_err() {
            tracing::warn!(hub.id = %self.id.hub, "too much waits for another hub");
        }
    }

    /// Ends what is left: usually nothing, if the other hub has closed the tunnel.
    fn end(&self, mut ended: RunningCalls, reason: &str) {
        ended.legs().iter().for_each(|leg| self.end_leg(leg, reason));
        let dialect = self.outbox.dialect();
        for call in ended.take_calls() {
            let message = encode::call_error(dialect, &call, &unanswered(reason));
            self.pass(PassedMessage {
                kind: PassedKind::End,
                id: Some(call),
                message,
            });
        }
    }

    /// Tells the spoke to stop a call that nobody waits for.
    fn end_leg(&self, leg: &str, reason: &str) {
        let dialect = self.outbox.dialect();
        let kind = match dialect {
            Dialect::Payload => PassedKind::Last,
            Dialect::Id => PassedKind::Message,
        };
        let message = encode::call_aborted(dialect, leg, Some(reason));
        self.pass(PassedMessage {
            kind,
            id: None,
            message,
        });
        self.outbox.leg_ended(leg);
    }

    /// Answers a call in place of the spoke, which does not get it: there is no room for it here. The hub that was left
    /// takes that for the spoke's own answer, so its caller reads `delivered: yes`.
    fn refuse(&self, leg: &str, exhausted: Exhausted) {
        let error = CallError::from(exhausted);
        let message = encode::call_error(self.outbox.dialect(), leg, &error);
        self.say(SessionMessage::FromPeer {
            tunnel: self.id.number,
            size: message.len(),
            message,
        });
    }

    fn pass(&self, passed: PassedMessage) {
        if self.outbox.pass(passed) == Err(Full::Queue) {
            self.outbox.close(
                CloseCode::Slow,
                "what the session has left behind comes faster than it is read",
            );
        }
    }

    fn say(&self, message: SessionMessage) {
        if (self.back.0)(message).is_err() {
            tracing::warn!(hub.id = %self.id.hub, "what a spoke answers does not get to the hub that it has left");
            self.breaks();
        }
    }
}

// === impl Way ===

impl Way {
    /// The way to this hub.
    pub(crate) fn new(moves: &Moves, hub: &HubId) -> Self {
        let (moves, hub) = (moves.clone(), hub.clone());
        Self(Box::new(move |message| moves.say(&hub, message)))
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}
