//! Takes the answers that come from other hubs, apart from the loop that reads every message of the other hubs.
//!
//! What it costs to read and check an answer depends on its spoke and its schema. So the loop only looks up the call
//! and puts the answer into the call's arrival queue. A task of the call takes it from there, and ends when the queue
//! is empty.
//!
//! Invariants
//! - A small answer waits for no other one's check. Nothing large is checked on a thread that serves connections, and
//!   only a few are checked at once ([`Checks`]).
//! - What waits is charged to the caller's key until it is checked.
//! - A call whose next message does not fit into its queue ends with an error, never silently.
//! - The loss of a hub, or of the conduit to it, comes behind the answers that had come from there: they are checked
//!   first, and one that ends the call leaves nothing to be lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use alkhub_budget::{Budgets, Kept};
use alkhub_protocol::{CallError, Code, Delivered, Frame, RequestId};
use tokio_util::task::TaskTracker;

use crate::directory::Instance;
use crate::directory::router::Excluded;
use crate::leg::answer::Answers;
use crate::leg::call::Call;
use crate::leg::outcome::End;
use crate::leg::placement::Placement;
use crate::leg::placement::loss;
use crate::leg::table::{self, CallTable};
use crate::relay;
use crate::relay::arrival_queue::{self, Arrival, ArrivalPush, LostAttempt, LostWith, Waited};
use crate::relay::checks::Checks;

/// Answers of at least this size are read and checked on a thread that serves nobody meanwhile.
const LARGE: usize = 32 * 1024;

/// Takes the answers that come from other hubs.
#[derive(Debug)]
pub(crate) struct Arrivals {
    answers: Arc<Answers>,
    placement: Arc<Placement>,
    table: Arc<CallTable>,
    tasks: TaskTracker,
    budgets: Budgets,
    checks: Checks,
}

// === impl Arrivals ===

impl Arrivals {
    pub(crate) fn new(
        answers: Arc<Answers>,
        placement: Arc<Placement>,
        table: Arc<CallTable>,
        tasks: TaskTracker,
        budgets: Budgets,
    ) -> Self {
        Self {
            answers,
            placement,
            table,
            tasks,
            budgets,
            checks: Checks::new(),
        }
    }

    /// Takes a message about an attempt of a call; never waits and checks nothing.
    pub(crate) fn arrived(self: &Arc<Self>, call: Arc<Call>, arrival: Arrival) {
        call.times.hear();
        let budget = self.budgets.key(&call.source.payer());
        let held = match budget.take(Kept::Arrivals, arrival_queue::cost(&arrival)) {
            Ok(held) => held,
            Err(exhausted) => return self.refused(&call, &exhausted.to_string()),
        };
        match call.arrivals.push(arrival, held) {
            ArrivalPush::Waits | ArrivalPush::Lost => {}
            ArrivalPush::First => {
                let arrivals = Arc::clone(self);
                self.tasks.spawn(async move { arrivals.take_all(&call).await });
            }
            ArrivalPush::Full => self.refused(&call, "answers come faster than this hub checks them"),
        }
    }

    /// An attempt of a call is lost: the call goes elsewhere or ends, once what has come of it is checked.
    pub(crate) fn lose(&self, call: &Arc<Call>, loss: LostAttempt) {
        if let Err(loss) = call.arrivals.push_loss(loss) {
            self.take_loss(call, &loss);
        }
    }

    /// Ends a call whose answer cannot wait for its check.
    fn refused(&self, call: &Call, reason: &str) {
        let error = CallError::new(Code::Overloaded, reason).delivered(Delivered::Yes);
        self.table.end(call.key, End::Failed(error), Some(reason));
    }

    async fn take_all(self: &Arc<Self>, call: &Arc<Call>) {
        let mut next = call.arrivals.pop();
        while let Some(waited) = next {
            let taken = match waited {
                Waited::Arrival(arrival, held) => {
                    let taken = self.take_arrival(call, arrival).await;
                    drop(held);
                    taken
                }
                Waited::Loss(loss) => catch_unwind(AssertUnwindSafe(|| self.take_loss(call, &loss))).is_ok(),
            };
            if !taken {
                tracing::error!(call.key = call.key, operation = %call.operation.name, "checking an answer panicked");
                let error = CallError::new(Code::Internal, "the answer could not be checked");
                self.table.end(
                    call.key,
                    End::Failed(error.delivered(Delivered::Yes)),
                    Some("its answer cannot be checked"),
                );
            }
            next = call.arrivals.pop();
            if next.is_some() {
                // Lets another call have its turn.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes an answer; false if that panicked.
    async fn take_arrival(self: &Arc<Self>, call: &Arc<Call>, arrival: Arrival) -> bool {
        // The queue of a call that has ended is emptied all the same, at once: other calls need the room.
        let is_quick = arrival_queue::cost(&arrival) < LARGE || !self.table.contains(call.key);
        if is_quick {
            return catch_unwind(AssertUnwindSafe(|| self.take_one(call, &arrival))).is_ok();
        }
        let place = self.checks.place(&call.source.payer()).await;
        let (arrivals, call) = (Arc::clone(self), Arc::clone(call));
        let take = move || arrivals.take_one(&call, &arrival);
        let taken = tokio::task::spawn_blocking(take).await.is_ok();
        // Only now: its thread is free for the next one.
        drop(place);
        taken
    }

    /// Takes the loss of an attempt, unless the call has ended or is somewhere else by now.
    fn take_loss(&self, call: &Arc<Call>, loss: &LostAttempt) {
        let is_there = {
            let leg = call.leg.lock();
            let is_from = |at: &Arc<Instance>| Arc::ptr_eq(at, &loss.from);
            leg.resent == loss.attempt && leg.to.instance().is_some_and(is_from)
        };
        if !is_there {
            return;
        }
        match loss.with {
            LostWith::Hub => self
                .placement
                .lost(call, &loss.from, Excluded::Hub(&loss.from.entry.hub)),
            LostWith::Conduit => {
                // A call may have been sent since the break, and the other hub still considers it valid.
                let stop = Some("the conduit between the hubs broke");
                self.table.end(call.key, End::Failed(link_lost(call)), stop);
            }
        }
    }

    /// The hub that has an attempt of a call says that its spoke is lost: the call goes elsewhere, or ends with the
    /// error.
    fn lost(&self, call: &Arc<Call>, attempt: u8, request_id: RequestId, error: CallError) {
        let from = {
            let leg = call.leg.lock();
            leg.to.instance().filter(|_| leg.resent == attempt).cloned()
        };
        // The call has ended, or is somewhere else by now.
        let Some(from) = from else { return };
        let (answers, ends) = (Arc::clone(&self.answers), Arc::clone(call));
        self.placement.lost_there(call, &from, move |reason| {
            let error = reason.told(error);
            answers.take(&ends, Frame::Failed { request_id, error }, Some(attempt));
        });
    }

    fn take_one(&self, call: &Arc<Call>, arrival: &Arrival) {
        let attempt = arrival.attempt;
        // A late message about an earlier attempt says nothing about the current one.
        if !self.table.contains(call.key) || call.leg.lock().resent != attempt {
            return;
        }
        match relay::answer(&arrival.frame) {
            Ok(Frame::Failed { request_id, error }) if loss::is_loss(&error) => {
                self.lost(call, attempt, request_id, error);
            }
            Ok(frame) => self.answers.take(call, frame, (!arrival.is_late).then_some(attempt)),
            Err(error) => {
                tracing::warn!(%error, "an answer of another hub was not understood");
                let error = CallError::new(Code::Internal, "an answer of the spoke's hub could not be read");
                let stop = Some("an answer could not be read");
                self.table
                    .end(call.key, End::Failed(error.delivered(Delivered::Yes)), stop);
            }
        }
    }
}

/// The error for a call of which something was lost between two hubs.
fn link_lost(call: &Call) -> CallError {
    let message = "the conduit between the hubs broke, and an answer may be lost";
    table::undecided(call, Code::Unavailable, message.to_owned())
}
