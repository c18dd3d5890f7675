//! Takes the answers that come from other hubs, beside the loop that reads every message of a hub.
//!
//! The cost of reading and checking an answer is up to its spoke and its schema. So the loop only looks for the call
//! and puts the answer into the call's arrival queue; a task of the call takes it from there, and ends when the queue
//! is empty.
//!
//! Invariants
//! - No call waits for the check of another one's answer; nothing large is checked on a thread that serves connections.
//! - A call whose next message does not fit into its queue ends with an error, never in silence.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use alkhub_protocol::{CallError, Code, Delivered, Frame};
use bytes::Bytes;
use tokio_util::task::TaskTracker;

use crate::directory::router::Excluded;
use crate::leg::answer::Answers;
use crate::leg::call::Call;
use crate::leg::outcome::End;
use crate::leg::placement::Placement;
use crate::leg::placement::loss;
use crate::leg::table::CallTable;
use crate::relay;
use crate::relay::arrival_queue::{self, Arrival, ArrivalBytes, ArrivalPush};

/// Answers from this size on are read and checked on a thread that serves nobody meanwhile.
const LARGE: usize = 32 * 1024;

/// Takes the answers that come from other hubs.
#[derive(Debug)]
pub(crate) struct Arrivals {
    answers: Arc<Answers>,
    placement: Arc<Placement>,
    table: Arc<CallTable>,
    tasks: TaskTracker,
    bytes: ArrivalBytes,
}

// === impl Arrivals ===

impl Arrivals {
    pub(crate) fn new(
        answers: Arc<Answers>,
        placement: Arc<Placement>,
        table: Arc<CallTable>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            answers,
            placement,
            table,
            tasks,
            bytes: ArrivalBytes::default(),
        }
    }

    /// Takes a message about an attempt of a call; never waits and checks nothing.
    pub(crate) fn arrived(self: &Arc<Self>, call: Arc<Call>, attempt: u8, frame: Bytes) {
        call.times.hear();
        match call.arrivals.push((attempt, frame), &self.bytes) {
            ArrivalPush::Waits => {}
            ArrivalPush::First => {
                let arrivals = Arc::clone(self);
                self.tasks.spawn(async move { arrivals.take_all(&call).await });
            }
            ArrivalPush::Full => {
                let reason = "answers come faster than this hub checks them";
                let error = CallError::new(Code::Overloaded, reason).delivered(Delivered::Yes);
                self.table.end(call.key, End::Failed(error), Some(reason));
            }
        }
    }

    async fn take_all(self: &Arc<Self>, call: &Arc<Call>) {
        let mut next = call.arrivals.pop(&self.bytes);
        while let Some(arrival) = next {
            // The queue of a call that has ended is emptied all the same: others need the room.
            let taken = if arrival_queue::cost(&arrival) < LARGE {
                catch_unwind(AssertUnwindSafe(|| self.take_one(call, &arrival))).is_ok()
            } else {
                let (arrivals, call) = (Arc::clone(self), Arc::clone(call));
                let take = move || arrivals.take_one(&call, &arrival);
                tokio::task::spawn_blocking(take).await.is_ok()
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
            next = call.arrivals.pop(&self.bytes);
            if next.is_some() {
                // Another call's turn.
                tokio::task::yield_now().await;
            }
        }
    }

    /// The hub that has an attempt of a call says that its spoke is lost; the error is the call's, unless it goes elsewhere.
    fn lost(&self, call: &Arc<Call>, attempt: u8, error: CallError) -> Result<(), CallError> {
        let from = {
            let leg = call.leg.lock();
            leg.to.instance().filter(|_| leg.resent == attempt).cloned()
        };
        // It has ended, or is somewhere else by now.
        let Some(from) = from else { return Ok(()) };
        let sent_again = self.placement.lost(call, &from, Excluded::Registration(&from));
        sent_again.map_err(|reason| reason.told(error))
    }

    fn take_one(&self, call: &Arc<Call>, (attempt, frame): &Arrival) {
        // What is late of an attempt says nothing of the one that runs now.
        if !self.table.contains(call.key) || call.leg.lock().resent != *attempt {
            return;
        }
        match relay::answer(frame) {
            Ok(Frame::Failed { request_id, error }) if loss::is_loss(&error) => {
                if let Err(error) = self.lost(call, *attempt, error) {
                    self.answers.take(call, Frame::Failed { request_id, error });
                }
            }
            Ok(frame) => self.answers.take(call, frame),
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
