//! The arrival queue of one call: answers that came from another hub and are not checked yet.
//!
//! Invariants
//! - They are taken in the order they came in, by one task at a time.
//! - It is bounded in bytes, for one call and for all; each message counts for a little more than its bytes, so the
//!   messages are bounded too.

use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_queue::{Limits, Queue};
use bytes::Bytes;
use parking_lot::Mutex;

/// The most that waits of one call, one message aside: a burst that its check keeps up with.
const CALL_LIMITS: Limits = Limits {
    items: usize::MAX,
    bytes: 4 * 1024 * 1024,
};

/// Bytes that wait of all calls at most.
const ALL_BYTES: usize = 64 * 1024 * 1024;

/// The cost of a message beside its bytes.
const OVERHEAD: usize = 64;

/// A message about one attempt, not read yet.
pub(crate) type Arrival = (u8, Bytes);

/// The messages of one call that wait to be checked.
#[derive(Debug, Default)]
pub(crate) struct ArrivalQueue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Arrivals with what they count for.
    arrivals: Queue<(Arrival, usize)>,
    /// Whether a task takes what waits.
    is_taken: bool,
}

/// The bytes that wait in all arrival queues.
#[derive(Debug, Default)]
pub(crate) struct ArrivalBytes(AtomicUsize);

/// The result of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArrivalPush {
    /// The task of the call takes it.
    Waits,
    /// The call needs a task.
    First,
    Full,
}

// === impl ArrivalQueue ===

impl ArrivalQueue {
    pub(crate) fn push(&self, arrival: Arrival, all: &ArrivalBytes) -> ArrivalPush {
        let cost = cost(&arrival);
        let mut waiting = self.0.lock();
        if waiting.arrivals.room(cost, CALL_LIMITS).is_err() || !all.take(cost) {
            return ArrivalPush::Full;
        }
        // Nobody waits for the next one: a task takes what there is and ends.
        waiting.arrivals.add((arrival, cost)).wake();
        if std::mem::replace(&mut waiting.is_taken, true) {
            ArrivalPush::Waits
        } else {
            ArrivalPush::First
        }
    }

    /// The next arrival; after `None` the call needs a task again.
    pub(crate) fn pop(&self, all: &ArrivalBytes) -> Option<Arrival> {
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

/// The bytes that an arrival counts for.
pub(crate) fn cost(arrival: &Arrival) -> usize {
    arrival.1.len() + OVERHEAD
}

// === impl ArrivalBytes ===

impl ArrivalBytes {
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
        let (queue, all) = (ArrivalQueue::default(), ArrivalBytes::default());

        assert_eq!(queue.push(answer(0, 10), &all), ArrivalPush::First);
        assert_eq!(queue.push(answer(1, 0), &all), ArrivalPush::Waits);
        assert_eq!(first(queue.pop(&all)), Some(0));
        assert_eq!(queue.push(answer(2, 10), &all), ArrivalPush::Waits);
        assert_eq!([first(queue.pop(&all)), first(queue.pop(&all))], [Some(1), Some(2)]);

        assert_eq!(first(queue.pop(&all)), None);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
        assert_eq!(
            queue.push(answer(3, 10), &all),
            ArrivalPush::First,
            "the task has ended"
        );
    }

    #[test]
    fn a_lane_is_bounded_but_for_its_first_message() {
        let (queue, all) = (ArrivalQueue::default(), ArrivalBytes::default());

        assert_eq!(queue.push(answer(0, CALL_LIMITS.bytes), &all), ArrivalPush::First);
        assert_eq!(queue.push(answer(1, 0), &all), ArrivalPush::Full);
        assert_eq!(first(queue.pop(&all)), Some(0));
        assert_eq!(queue.push(answer(1, 0), &all), ArrivalPush::Waits);
    }

    #[test]
    fn all_lanes_together_are_bounded() {
        let all = ArrivalBytes::default();
        let queues: Vec<ArrivalQueue> = (0..=ALL_BYTES / CALL_LIMITS.bytes)
            .map(|_| ArrivalQueue::default())
            .collect();

        let pushed = queues
            .iter()
            .map(|queue| queue.push(answer(0, CALL_LIMITS.bytes - OVERHEAD), &all));
        let full = pushed.filter(|pushed| *pushed == ArrivalPush::Full).count();

        assert_eq!(full, 1);
    }
}
