//! Calls at an instance that others should take: its connection is lost, or it is about to go.
//!
//! Invariants
//! - A call leaves its place for one that has taken it; until then it can go back, and does where nobody takes it.
//! - One that was sent again before, by this hub or by that of its caller, stays: it is not sent a third time.

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

/// One look at calls that wait. Until it is over it keeps the slots that calls were given back for: their hubs will take them.
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
    /// A call that waits for an instance whose connection is lost goes to another one that can take it now. It stays where
    /// there is none, and where it has left the queue, or was sent again before.
    pub(crate) fn relieve(&self, call: &Arc<Call>, session: &Arc<Session>, look: &mut Look) {
        match &call.source {
            CallSource::Caller(_) => self.pass_on(call, session),
            CallSource::Hub { call: remote, .. } => self.give_back(call, remote, session, look),
        }
    }

    /// [`Self::relieve`] of one call.
    pub(super) fn relieve_one(&self, call: &Arc<Call>, session: &Arc<Session>) {
        self.relieve(call, session, &mut Look::default());
    }

    /// Whether an instance other than this one can take a call now, of those that nothing speaks against.
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

    /// Sends a call that nobody else takes to the registration that it came back from; whether it went.
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

    /// Gives a call that waits back to its caller's hub, which finds another instance for it, or sends it here again. In one look
    /// no more than the others have slots for, as far as this hub knows: it is done once with each call.
    fn give_back(&self, call: &Arc<Call>, remote: &RemoteCall, session: &Arc<Session>, look: &mut Look) {
        if remote.attempt > 0 {
            return;
        }
        let waiting = {
            let leg = call.leg.lock();
            waiting_at(&leg.to, session)
        };
        let Some((from, number)) = waiting else { return };
        let pool = self.pool_of(&call.operation);
        let place = pool
            .ok()
            .and_then(|pool| self.reserve_another(&pool, call, &from, false));
        let Some(place) = place else { return };
        look.0.push(place);
        if session.outbox.withdraw(number) {
            self.table.end_running(call, End::Silent);
            self.relay.give_back(remote, RegistrationStanding::Reconnecting);
        }
    }

    /// Sends a call of this hub's that waits to another instance, where one takes it.
    fn pass_on(&self, call: &Arc<Call>, session: &Arc<Session>) {
        let mut leg = call.leg.lock();
        let waiting = waiting_at(&leg.to, session).filter(|_| leg.resent == 0);
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
            // Back by now, under a newer registration.
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

    /// Tells the hub to which a session has gone meanwhile that a call, which it may have been told of, is not there.
    pub(super) fn is_not_there(&self, call: &Call, session: &Session) {
        if session.outbox.is_away() {
            session.outbox.leg_ended(&call.leg_id(&self.legs));
        }
    }

    /// Takes a slot of another instance than the one at which a call waits.
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

/// The registration of a session that a call was sent to, and its number in the session's queue.
fn waiting_at(to: &To, session: &Arc<Session>) -> Option<(Arc<Instance>, u64)> {
    match to {
        To::Spoke { instance, number } if instance.is_of(session) => Some((Arc::clone(instance), *number)),
        To::Spoke { .. } | To::Hub { .. } | To::Nobody | To::Ended => None,
    }
}
