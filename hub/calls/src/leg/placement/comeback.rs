//! Calls that come back: nobody got them, so they go to others, back to where they were, or fail.
//!
//! Invariants
//! - A call that comes back is nowhere until somebody else takes it. Meanwhile whoever ends it ends it for good.
//! - This hub sends again only what its own callers called; what another hub sent here goes back to that hub.
//! - A call is admitted anew only if no spoke can have got it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use alkhub_protocol::{CallError, Code};

use super::{Placement, nobody_offers_the_same};
use crate::directory::Instance;
use crate::directory::operation::Operation;
use crate::directory::router::Excluded;
use crate::leg::call::{Call, CallSource};
use crate::leg::outcome::End;
use crate::leg::table::CallTable;
use crate::relay::RegistrationStanding;

/// The directory may hear of a move a little later than another hub speaks of it, so it is looked at this many times,
const LOOKS: u32 = 25;

/// at this interval.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A call that has come back more often than this fails when another hub gives it back: its spoke may move twice in a
/// row, but seldom more often.
pub(super) const MOST: u8 = 3;

// === impl Placement ===

impl Placement {
    /// An instance has left and will not get the call: another one gets it, or it fails at once.
    pub(crate) fn reroute(&self, call: &Arc<Call>, from: &Arc<Instance>) {
        let Some(first_time) = take_back(call, from).map(is_first) else {
            return;
        };
        if let CallSource::Hub { call: remote, .. } = &call.source {
            // Only the caller's hub sends it again, never this one.
            self.table.end_running(call, End::Silent);
            self.relay.give_back(remote, RegistrationStanding::Gone);
        } else if let Err(refusal) = self.send_elsewhere(call, Excluded::Registration(from), first_time) {
            self.not_delivered(call, refusal, left(from));
        }
    }

    /// The hub of an instance did not receive the call: an instance on another hub gets it, or it fails at once. Nobody
    /// knows whether the spoke has left.
    pub(crate) fn came_back(&self, call: &Arc<Call>, from: &Arc<Instance>) {
        let Some(first_time) = take_back(call, from).map(is_first) else {
            return;
        };
        // Other instances on that hub are just as far away.
        if let Err(refusal) = self.send_elsewhere(call, Excluded::Hub(&from.entry.hub), first_time) {
            self.not_delivered(call, refusal, cut_off(from));
        }
    }

    /// The holder gives the call back: the registration is gone, or somebody else is to take the call. The call follows
    /// the spoke, goes back to where it was, or fails soon.
    pub(crate) fn moved(self: &Arc<Self>, call: &Arc<Call>, from: &Arc<Instance>, standing: RegistrationStanding) {
        let Some(resent) = take_back(call, from) else {
            return;
        };
        // The call may only have been faster than the registration, and then it goes back: elsewhere it would have to
        // wait at an instance whose connection is lost, and stay there.
        let target = call.request.target.as_ref();
        let goes_back = || standing == RegistrationStanding::Ready && self.send_back(call, from);
        if resent <= MOST && !self.has_another(&call.operation, target, from) && goes_back() {
            return;
        }
        let Err(refusal) = self.send_elsewhere(call, Excluded::Registration(from), resent <= MOST) else {
            return;
        };
        if resent > MOST {
            return self.not_delivered(call, refusal, left(from));
        }
        // Not while its connection is lost: there the call would only wait, and the holder may have heard sooner than
        // this hub of an instance that has come.
        if goes_back() {
            return;
        }
        let (placement, back, at) = (Arc::clone(self), Arc::clone(call), Arc::clone(from));
        self.look_again(call, from, refusal, move |refusal| {
            let may_go_back = standing != RegistrationStanding::Gone && !(back.was_lost() && back.has_other_rights());
            if !may_go_back || !placement.send_back(&back, &at) {
                placement.not_delivered(&back, refusal, left(&at));
            }
        });
    }

    /// Looks for half a second for somebody who takes a call that nobody has now, because the directory may hear of a
    /// move a little later than another hub speaks of it. Whoever ends the call ends that too. If nobody takes it,
    /// `give_up` gets the last refusal.
    pub(super) fn look_again(
        self: &Arc<Self>,
        call: &Arc<Call>,
        from: &Arc<Instance>,
        refusal: CallError,
        give_up: impl FnOnce(CallError) + Send + 'static,
    ) {
        let (placement, call, from) = (Arc::clone(self), Arc::clone(call), Arc::clone(from));
        self.tasks.spawn(async move {
            let mut refusal = refusal;
            for _ in 0..LOOKS {
                tokio::time::sleep(LOOK_INTERVAL).await;
                if !placement.table.contains(call.key) {
                    return;
                }
                // A spoke may have got it already, so that it is no call to be admitted anew.
                if call.was_lost() && call.has_other_rights() {
                    break;
                }
                match placement.send_again(&call, Excluded::Registration(&from)) {
                    Ok(()) => return,
                    Err(error) => refusal = error,
                }
            }
            give_up(refusal);
        });
    }

    /// Whether an operation is now offered with another specification than the one a call's input was checked against.
    fn is_another_now(&self, operation: &Operation) -> bool {
        let another = |offered: &Arc<Operation>| offered.hash != operation.hash;
        let pool = self.directory.pool(&operation.name);
        pool.is_some_and(|pool| pool.operation.as_ref().is_some_and(another))
    }

    /// Sends a call that came back, if it may be sent again.
    fn send_elsewhere(&self, call: &Arc<Call>, not: Excluded<'_>, may_go: bool) -> Result<(), CallError> {
        if may_go {
            self.send_again(call, not)
        } else {
            Err(nobody_offers_the_same(&call.operation))
        }
    }

    /// A call that reached nobody is admitted anew if its operation has changed meanwhile and its caller's rights have
    /// not. Otherwise it fails: with the refusal of the others that offer the operation or, if there are none, with
    /// what became of the instance that it was sent to.
    fn not_delivered(&self, call: &Arc<Call>, refusal: CallError, lost: CallError) {
        let is_another = refusal.code == Code::NoProvider && self.is_another_now(&call.operation);
        if is_another && !call.has_other_rights() && !call.was_lost() {
            let readmission = self.readmission.get().and_then(Weak::upgrade);
            if let Some(readmission) = readmission {
                return readmission.readmit(Arc::clone(call));
            }
        }
        let error = if refusal.code == Code::NoProvider {
            lost
        } else {
            refusal
        };
        self.table.end_running(call, End::Failed(error));
    }
}

/// The error for a call whose spoke left before it got the call.
fn left(from: &Instance) -> CallError {
    let message = format!("spoke `{}` left before it got the call", from.entry.spoke);
    CallError::new(Code::SpokeLost, message).retryable()
}

/// The error for a call that did not reach the hub of its spoke.
fn cut_off(from: &Instance) -> CallError {
    let message = format!("the hub of spoke `{}` did not receive the call", from.entry.spoke);
    CallError::new(Code::Unavailable, message).retryable()
}

/// Takes a call back from an instance that did not get it. Returns how often it has come back in this way; `None` if it
/// is not there.
fn take_back(call: &Call, from: &Arc<Instance>) -> Option<u8> {
    let mut leg = call.leg.lock();
    leg.to.instance().filter(|instance| Arc::ptr_eq(instance, from))?;
    let to = std::mem::take(&mut leg.to);
    CallTable::release(&to, call.key);
    leg.resent += 1;
    Some(call.came_back(&leg))
}

/// Whether a call that has come back had never been sent again before.
fn is_first(resent: u8) -> bool {
    resent == 1
}
