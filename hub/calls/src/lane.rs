//! What came back of one call from another hub and is not checked yet.
//!
//! Invariants
//! - It is taken in the order it came in, by one task at a time.
//! - What waits is bounded in bytes, of one call and of all; each message counts for a little more than its bytes, so the
//!   messages are bounded too.

use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_queue::{Limits, Queue};
use bytes::Bytes;
use parking_lot::Mutex;

/// What waits of one call at most, one message aside: a burst that its check keeps up with.
const CALL_LIMITS: Limits = Limits {
    items: usize::MAX,
    bytes: 4 * 1024 * 1024,
};

/// Bytes that wait of all calls at most.
const ALL_BYTES: usize = 64 * 1024 * 1024;

/// What a message costs besides its bytes.
const OVERHEAD: usize = 64;

/// What came back of one attempt, not read yet.
pub(crate) type Arrival = (u8, Bytes);

/// What waits of one call.
#[derive(Debug, Default)]
pub(crate) struct Lane(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Arrivals with what they count for.
    arrivals: Queue<(Arrival, usize)>,
    /// Whether a task takes what waits.
    is_taken: bool,
}

/// Bytes that wait in all lanes.
#[derive(Debug, Default)]
pub(crate) struct LaneBytes(AtomicUsize);

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LanePush {
    /// The task of the call takes it.
    Waits,
    /// The call needs a task.
    First,
    Full,
}

// === impl Lane ===

impl Lane {
    pub(crate) fn push(&self, arrival: Arrival, all: &LaneBytes) -> LanePush {
        let cost = cost(&arrival);
        let mut waiting = self.0.lock();
        if waiting.arrivals.room(cost, CALL_LIMITS).is_err() || !all.take(cost) {
            return LanePush::Full;
        }
        // Nobody waits for the next one: a task takes what there is and ends.
        waiting.arrivals.add((arrival, cost)).wake();
        if std::mem::replace(&mut waiting.is_taken, true) {
            LanePush::Waits
        } else {
            LanePush::First
        }
    }

    /// The next arrival; after `None` the call needs a task again.
    pub(crate) fn pop(&self, all: &LaneBytes) -> Option<Arrival> {
        let mut waiting = self.0.lock();
        let Some((arrival, cost)) = waiting.arrivals.pop() else {
            waiting.is_taken = false;
            return None;
        };
        drop(waiting);
        all.give_back(cost);
        Some(arrival)
    }
}

/// What an arrival counts for, in bytes.
pub(crate) fn cost(arrival: &Arrival) -> usize {
    arrival.1.len() + OVERHEAD
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(first: u8, bytes: usize) -> Arrival {
        let mut frame = vec![b' '; bytes.max(1)];
        frame[0] = first;
        (0, frame.into())
    }

    fn first(arrival: Option<Arrival>) -> Option<u8> {
        arrival.map(|(_, frame)| frame[0])
    }

    #[test]
    fn what_comes_back_is_taken_in_order_and_by_one_task() {
        let (lane, all) = (Lane::default(), LaneBytes::default());

        assert_eq!(lane.push(answer(0, 10), &all), LanePush::First);
        assert_eq!(lane.push(answer(1, 0), &all), LanePush::Waits);
        assert_eq!(first(lane.pop(&all)), Some(0));
        assert_eq!(lane.push(answer(2, 10), &all), LanePush::Waits);
        assert_eq!([first(lane.pop(&all)), first(lane.pop(&all))], [Some(1), Some(2)]);

        assert_eq!(first(lane.pop(&all)), None);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
        assert_eq!(lane.push(answer(3, 10), &all), LanePush::First, "the task has ended");
    }

    #[test]
    fn a_lane_is_bounded_but_for_its_first_message() {
        let (lane, all) = (Lane::default(), LaneBytes::default());

        assert_eq!(lane.push(answer(0, CALL_LIMITS.bytes), &all), LanePush::First);
        assert_eq!(lane.push(answer(1, 0), &all), LanePush::Full);
        assert_eq!(first(lane.pop(&all)), Some(0));
        assert_eq!(lane.push(answer(1, 0), &all), LanePush::Waits);
    }

    #[test]
    fn all_lanes_together_are_bounded() {
        let all = LaneBytes::default();
        let lanes: Vec<Lane> = (0..=ALL_BYTES / CALL_LIMITS.bytes).map(|_| Lane::default()).collect();

        let pushed = lanes
            .iter()
            .map(|lane| lane.push(answer(0, CALL_LIMITS.bytes - OVERHEAD), &all));
        let full = pushed.filter(|pushed| *pushed == LanePush::Full).count();

        assert_eq!(full, 1);
    }
}
