//! Calls at an instance that others should take, because its connection is lost or it is about to go.
//!
//! Invariants
//! - A call leaves its place only for one that has taken it; until then it can go back, and does if nobody takes it.
//! - A call that was sent again before, by this hub or by its caller's, stays: it is not sent a third time. That it was
//!   sent again after a loss does not count.

use std::sync::Arc;

use alkhub_protocol::SpokeName;

use super::Placement;
use crate::directory::operation::Operation;
use crate::directory::router::{self, Excluded, Wanted};
use crate::directory::{Instance, Pool};
use crate::leg::call::{Call, CallSource, To};
use crate::leg::outcome::End;
use crate::leg::table::CallTable;
use crate::relay::{RegistrationStanding, RemoteCall};
use crate::session::Session;
use crate::session::outbox::Outbox;

/// One pass over calls that wait. Until it is over it holds the slots for which calls were given back: their hubs will
/// use them.
#[derive(Debug, Default)]
pub(crate) struct Look(Vec<Arc<Instance>>);

// === impl Look ===

impl Drop for Look {
    fn drop(&mut self) {
        self.0.iter().for_each(|instance| instance.load.release());
    }
}

// === impl Placement ===

impl Placement {
    /// Sends a call that waits for an instance whose connection is lost to another one that can take it now. It stays
    /// where it is if there is none, if it has left the queue, or if it was sent again before.
    pub(crate) fn relieve(&self, call: &Arc<Call>, session: &Arc<Session>, look: &mut Look) {
        match &call.source {
            CallSource::Caller(_) => self.pass_on(call, session),
            CallSource::Hub {
                call: remote,
                may_come_back: true,
                ..
            } => self.give_back(call, remote, session, look),
            CallSource::Hub {
                may_come_back: false, ..
            } => {}
        }
    }

    /// [`Self::relieve`] for a single call.
    pub(super) fn relieve_one(&self, call: &Arc<Call>, session: &Arc<Session>) {
        self.relieve(call, session, &mut Look::default());
    }

    /// Whether an instance other than this one can take a call now, second choices not counted.
    pub(crate) fn has_another(&self, operation: &Operation, target: Option<&SpokeName>, not: &Instance) -> bool {
        let draining = self.cluster.draining();
        let wanted = Wanted {
            target,
            not: Excluded::Registration(not),
            only_here: false,
            draining: Some(&**draining),
            connected: true,
        };
        self.pool_of(operation).is_ok_and(|pool| router::has_one(&pool, wanted))
    }

    /// Sends a call that nobody else takes to the registration that it came back from. Returns whether it went.
    pub(super) fn send_back(&self, call: &Arc<Call>, from: &Instance) -> bool {
        let standing = self.directory.instance(&from.entry.spoke, &from.entry.instance);
        let standing = standing.filter(|standing| standing.is_same_registration(from));
        let place = standing.filter(|standing| standing.load.reserve(standing.slots()));
        let is_sent = place.is_some_and(|place| self.place(call, place).is_ok());
        if is_sent {
            self.metrics.resent.inc();
        }
        is_sent
    }

    /// Gives a waiting call back to its caller's hub, which finds another instance for it or sends it here again. One
    /// pass gives back no more calls than the others have slots for, as far as this hub knows, because it can be done
    /// only once with each call.
    fn give_back(&self, call: &Arc<Call>, remote: &RemoteCall, session: &Arc<Session>, look: &mut Look) {
        // Until it is nowhere: whoever ends it in between would tell the spoke to stop, which never got it.
        let mut leg = call.leg.lock();
        let Some((from, number)) = waiting_at(&leg.to, session) else {
            return;
        };
        let pool = self.pool_of(&call.operation);
        let place = pool
            .ok()
            .and_then(|pool| self.reserve_another(&pool, call, &from, false));
        let Some(place) = place else { return };
        look.0.push(place);
        if session.outbox.withdraw(number) {
            let left = std::mem::take(&mut leg.to);
            drop(leg);
            CallTable::release(&left, call.key);
            self.is_not_there(call, session);
            self.table.end_running(call, End::Silent);
            self.relay.give_back(remote, RegistrationStanding::Reconnecting);
        }
    }

    /// Sends a waiting call of this hub's caller to another instance, if one takes it.
    fn pass_on(&self, call: &Arc<Call>, session: &Arc<Session>) {
        let mut leg = call.leg.lock();
        let waiting = waiting_at(&leg.to, session).filter(|_| call.came_back(&leg) == 0);
        let Some((from, number)) = waiting else { return };
        let Ok(pool) = self.pool_of(&call.operation) else {
            return;
        };
        let Some(place) = self.reserve_another(&pool, call, &from, false) else {
            return;
        };
        if place.is_of(session) || !session.outbox.withdraw(number) {
            return place.load.release();
        }
        let places = std::iter::once(place)
            // The first one may be on a hub that cannot be reached.
            .chain(std::iter::once_with(|| self.reserve_another(&pool, call, &from, true)).flatten());
        for place in places {
            // The session is back by now, under a newer registration.
            if place.is_of(session) {
                place.load.release();
                continue;
            }
            match self.hand_over(call, leg.resent + 1, &place) {
                Ok(number) => {
                    leg.resent += 1;
                    let left = std::mem::replace(&mut leg.to, To::at(place, number));
                    CallTable::release(&left, call.key);
                    self.is_not_there(call, session);
                    return self.metrics.resent.inc();
                }
                Err(_) => place.load.release(),
            }
        }
        match self.queue(call, session, Outbox::push_call_back) {
            Ok(number) => leg.to = To::at(from, Some(number)),
            // The session has ended meanwhile.
            Err(_) => {
                drop(leg);
                self.reroute(call, &from);
            }
        }
    }

    /// If the session has gone to another hub meanwhile, tells that hub that a call it may have been told of is not
    /// there.
    pub(super) fn is_not_there(&self, call: &Call, session: &Session) {
        if session.outbox.is_away() {
            session.outbox.leg_ended(&call.leg_id(&self.legs));
        }
    }

    /// Takes a slot of an instance other than the one where a call waits.
    fn reserve_another(&self, pool: &Pool, call: &Call, from: &Instance, only_here: bool) -> Option<Arc<Instance>> {
        let draining = self.cluster.draining();
        let wanted = Wanted {
            target: call.request.target.as_ref(),
            not: Excluded::Registration(from),
            only_here,
            draining: Some(&**draining),
            connected: true,
        };
        router::reserve(pool, wanted)
    }
}

/// The registration of a session that a call was sent to, and the call's number in the session's queue.
fn waiting_at(to: &To, session: &Arc<Session>) -> Option<(Arc<Instance>, u64)> {
    match to {
        To::Spoke { instance, number } if instance.is_of(session) => Some((Arc::clone(instance), *number)),
        To::Spoke { .. } | To::Hub { .. } | To::Nobody | To::Ended => None,
    }
}
