//! What comes back of a call from another hub, on its way beside the loop that takes every relayed message.
//!
//! Reading and checking an answer costs as much as its spoke likes to send, and its schema allows. So the loop only looks
//! for the call and puts the answer into the call's lane; a task of the call takes it from there, and ends when the lane
//! is empty.
//!
//! Invariants
//! - What comes back of one call is taken in the order it came in, items and ends alike.
//! - No call waits for the check of another one's answer; nothing large is checked on a thread that serves connections.
//! - What waits is bounded in bytes, of one call and of all; each message counts for a little more than its bytes, so the
//!   messages are bounded too. A call whose next message does not fit ends with an error, never in silence.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_protocol::{CallError, Code, Delivered, Frame};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::call::Call;
use crate::core::Core;
use crate::relay;
use crate::sink::End;

/// Bytes that wait of one call at most, one message aside: a burst that its check keeps up with.
const CALL_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that wait of all calls at most.
const ALL_BYTES: usize = 64 * 1024 * 1024;

/// Answers from this size on are read and checked on a thread that serves nobody meanwhile.
const LARGE: usize = 32 * 1024;

/// What a message costs besides its bytes.
const OVERHEAD: usize = 64;

/// What came back.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// What the spoke said, not read yet; `items` were sent before it.
    Answer { items: u64, frame: Bytes },
    /// So many items were sent until now.
    Mark { items: u64 },
    /// The holder does not know the call.
    Unknown,
}

/// What waits of one call.
#[derive(Debug, Default)]
pub(crate) struct Lane(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Each with the attempt that it is about.
    arrivals: VecDeque<(Option<u8>, Arrival)>,
    bytes: usize,
    /// Whether a task takes what waits.
    is_taken: bool,
}

/// Bytes that wait in all lanes.
#[derive(Debug, Default)]
pub(crate) struct LaneBytes(AtomicUsize);

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushed {
    /// The task of the call takes it.
    Waits,
    /// The call needs a task.
    First,
    Full,
}

// === impl Arrival ===

impl Arrival {
    fn cost(&self) -> usize {
        match self {
            Self::Answer { frame, .. } => frame.len() + OVERHEAD,
            Self::Mark { .. } | Self::Unknown => OVERHEAD,
        }
    }
}

// === impl Lane ===

impl Lane {
    fn push(&self, attempt: Option<u8>, arrival: Arrival, all: &LaneBytes) -> Pushed {
        let cost = arrival.cost();
        let mut waiting = self.0.lock();
        let fits = waiting.arrivals.is_empty() || waiting.bytes + cost <= CALL_BYTES;
        if !fits || !all.take(cost) {
            return Pushed::Full;
        }
        waiting.bytes += cost;
        waiting.arrivals.push_back((attempt, arrival));
        if std::mem::replace(&mut waiting.is_taken, true) {
            Pushed::Waits
        } else {
            Pushed::First
        }
    }

    /// The next arrival; after `None` the call needs a task again.
    fn pop(&self, all: &LaneBytes) -> Option<(Option<u8>, Arrival)> {
        let mut waiting = self.0.lock();
        let Some((attempt, arrival)) = waiting.arrivals.pop_front() else {
            waiting.is_taken = false;
            return None;
        };
        waiting.bytes -= arrival.cost();
        all.give_back(arrival.cost());
        Some((attempt, arrival))
    }
}

// === impl LaneBytes ===

impl LaneBytes {
    fn take(&self, bytes: usize) -> bool {
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            (held + bytes <= ALL_BYTES).then_some(held + bytes)
        });
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Core {
    /// Takes what came back of an attempt of a call; never waits and checks nothing.
    pub(crate) fn arrived(self: &Arc<Self>, call: Arc<Call>, attempt: Option<u8>, arrival: Arrival) {
        call.clock.hear();
        match call.lane.push(attempt, arrival, &self.lane_bytes) {
            Pushed::Waits => {}
            Pushed::First => {
                let core = Arc::clone(self);
                self.tasks.spawn(async move { core.take_arrivals(&call).await });
            }
            Pushed::Full => {
                let reason = "answers come faster than this hub checks them";
                let error = CallError::new(Code::Overloaded, reason).delivered(Delivered::Yes);
                self.end(call.key, End::Failed(error), Some(reason));
            }
        }
    }

    async fn take_arrivals(self: &Arc<Self>, call: &Arc<Call>) {
        while let Some((attempt, arrival)) = call.lane.pop(&self.lane_bytes) {
            // The lane of a call that has ended is emptied all the same: others need the room.
            let taken = if arrival.cost() < LARGE {
                catch_unwind(AssertUnwindSafe(|| self.take_arrival(call, attempt, arrival))).is_ok()
            } else {
                let (core, call) = (Arc::clone(self), Arc::clone(call));
                let take = move || core.take_arrival(&call, attempt, arrival);
                tokio::task::spawn_blocking(take).await.is_ok()
            };
            if !taken {
                tracing::error!(call.key = call.key, operation = %call.operation.name, "checking an answer panicked");
                let error = CallError::new(Code::Internal, "the answer could not be checked");
                self.end(
                    call.key,
                    End::Failed(error.delivered(Delivered::Yes)),
                    Some("its answer cannot be checked"),
                );
            }
            tokio::task::yield_now().await;
        }
    }

    fn take_arrival(&self, call: &Arc<Call>, attempt: Option<u8>, arrival: Arrival) {
        // What is late of an attempt says nothing of the one that runs now.
        if !self.pending.contains(call.key) || !call.is_attempt(attempt) {
            return;
        }
        match arrival {
            Arrival::Answer { items, frame } => match relay::answer(&frame) {
                Ok(frame) => self.answered_by_hub(call, items, Some(frame)),
                Err(error) => {
                    tracing::warn!(%error, "an answer of another hub was not understood");
                    self.lost_on_the_way(call, Some("an answer could not be read"));
                }
            },
            Arrival::Mark { items } => self.answered_by_hub(call, items, None),
            // It may have crossed the call: the holder ends what it has.
            Arrival::Unknown => self.lost_on_the_way(call, Some("the holder did not know the call")),
        }
    }

    /// Takes what another hub says of a call, which sent `items` items before it: each is taken once and in order.
    fn answered_by_hub(&self, call: &Arc<Call>, items: u64, frame: Option<Frame>) {
        let expected = {
            let mut leg = call.leg.lock();
            let expected = leg.items;
            let is_next = items == expected && matches!(frame, Some(Frame::Responded { .. }));
            leg.items += u64::from(is_next);
            expected
        };
        match frame {
            _ if items > expected => self.lost_on_the_way(call, Some("items were lost between two hubs")),
            Some(frame) if items == expected => self.answered(call, frame),
            // It came twice, or nothing is missing.
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(items: u64, bytes: usize) -> Arrival {
        Arrival::Answer {
            items,
            frame: Bytes::from(vec![b' '; bytes]),
        }
    }

    fn number(arrival: Option<&(Option<u8>, Arrival)>) -> Option<u64> {
        match arrival {
            Some((_, Arrival::Answer { items, .. } | Arrival::Mark { items })) => Some(*items),
            Some((_, Arrival::Unknown)) | None => None,
        }
    }

    #[test]
    fn what_comes_back_is_taken_in_order_and_by_one_task() {
        let (lane, all) = (Lane::default(), LaneBytes::default());

        assert_eq!(lane.push(Some(0), answer(0, 10), &all), Pushed::First);
        assert_eq!(lane.push(Some(0), Arrival::Mark { items: 1 }, &all), Pushed::Waits);
        assert_eq!(number(lane.pop(&all).as_ref()), Some(0));
        assert_eq!(lane.push(Some(0), answer(2, 10), &all), Pushed::Waits);
        assert_eq!(
            [number(lane.pop(&all).as_ref()), number(lane.pop(&all).as_ref())],
            [Some(1), Some(2)]
        );

        assert_eq!(number(lane.pop(&all).as_ref()), None);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
        assert_eq!(
            lane.push(Some(0), answer(3, 10), &all),
            Pushed::First,
            "the task has ended"
        );
    }

    #[test]
    fn a_lane_is_bounded_but_for_its_first_message() {
        let (lane, all) = (Lane::default(), LaneBytes::default());

        assert_eq!(lane.push(Some(0), answer(0, CALL_BYTES), &all), Pushed::First);
        assert_eq!(lane.push(Some(0), answer(1, 0), &all), Pushed::Full);
        assert_eq!(number(lane.pop(&all).as_ref()), Some(0));
        assert_eq!(lane.push(Some(0), answer(1, 0), &all), Pushed::Waits);
    }

    #[test]
    fn all_lanes_together_are_bounded() {
        let all = LaneBytes::default();
        let lanes: Vec<Lane> = (0..=ALL_BYTES / CALL_BYTES).map(|_| Lane::default()).collect();

        let pushed = lanes
            .iter()
            .map(|lane| lane.push(Some(0), answer(0, CALL_BYTES - OVERHEAD), &all));
        let full = pushed.filter(|pushed| *pushed == Pushed::Full).count();

        assert_eq!(full, 1);
    }
}
