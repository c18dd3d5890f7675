//! The arrival queue of one call: answers that came from another hub and are not checked yet.
//!
//! Invariants
//! - They are taken in the order in which they came, by one task at a time.
//! - It is bounded in bytes, and all queues of a key by the budget of that key. Each message counts for a little more
//!   than its bytes, so the number of messages is bounded too.

use alkhub_budget::Held;
use alkhub_queue::{Limits, Queue};
use bytes::Bytes;
use parking_lot::Mutex;

/// The most that waits of one call, apart from a single message: enough for a burst that its check can keep up with.
const CALL_LIMITS: Limits = Limits {
    items: usize::MAX,
    bytes: 4 * 1024 * 1024,
};

/// The cost of a message besides its bytes.
const OVERHEAD: usize = 64;

/// A message about one attempt of a call, which is still to be read.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) attempt: u8,
    /// Whether its spoke brought it by another way than it got the attempt; then an earlier one may have led to it.
    pub(crate) is_late: bool,
    pub(crate) frame: Bytes,
}

/// The messages of one call that wait to be checked.
#[derive(Debug, Default)]
pub(crate) struct ArrivalQueue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// The arrivals with their charges, and what each counts for.
    arrivals: Queue<((Arrival, Held), usize)>,
    /// Whether a task is taking what waits.
    is_taken: bool,
}

/// The result of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArrivalPush {
    /// The task of the call will take it.
    Waits,
    /// No task takes it: the call needs one.
    First,
    Full,
}

// === impl ArrivalQueue ===

impl ArrivalQueue {
    /// Adds an arrival, whose [`cost`] `held` covers.
    pub(crate) fn push(&self, arrival: Arrival, held: Held) -> ArrivalPush {
        let cost = cost(&arrival);
        let mut waiting = self.0.lock();
        if waiting.arrivals.room(cost, CALL_LIMITS).is_err() {
            return ArrivalPush::Full;
        }
        // There is no reader to wake: a task takes what there is, and ends.
        waiting.arrivals.add(((arrival, held), cost)).wake();
        if std::mem::replace(&mut waiting.is_taken, true) {
            ArrivalPush::Waits
        } else {
            ArrivalPush::First
        }
    }

    /// The next arrival, with its charge; after `None` the call needs a task again.
    pub(crate) fn pop(&self) -> Option<(Arrival, Held)> {
        let mut waiting = self.0.lock();
        let next = waiting.arrivals.pop();
        waiting.is_taken = next.is_some();
        next.map(|(charged, _)| charged)
    }
}

/// The bytes that an arrival counts for.
pub(crate) fn cost(arrival: &Arrival) -> usize {
    arrival.frame.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use alkhub_budget::{Budget, Kept};

    use super::*;
    use crate::fixture::budget;

    fn answer(first: u8, bytes: usize) -> Arrival {
        let mut frame = vec![b' '; bytes.max(1)];
        frame[0] = first;
        Arrival {
            attempt: 0,
            is_late: false,
            frame: frame.into(),
        }
    }

    fn first(arrival: Option<(Arrival, Held)>) -> Option<u8> {
        arrival.map(|(arrival, _)| arrival.frame[0])
    }

    impl ArrivalQueue {
        fn push_for(&self, budget: &Budget, arrival: Arrival) -> ArrivalPush {
            let held = budget.take(Kept::Arrivals, cost(&arrival)).expect("room");
            self.push(arrival, held)
        }
    }

    #[test]
    fn what_comes_back_is_taken_in_order_and_by_one_task() {
        let (queue, budget) = (ArrivalQueue::default(), budget());
        let push = |arrival| queue.push_for(&budget, arrival);

        assert_eq!(push(answer(0, 10)), ArrivalPush::First);
        assert_eq!(push(answer(1, 0)), ArrivalPush::Waits);
        assert_eq!(first(queue.pop()), Some(0));
        assert_eq!(push(answer(2, 10)), ArrivalPush::Waits);
        assert_eq!([first(queue.pop()), first(queue.pop())], [Some(1), Some(2)]);

        assert_eq!(first(queue.pop()), None);
        assert_eq!(budget.used(), 0);
        assert_eq!(push(answer(3, 10)), ArrivalPush::First, "the task has ended");
    }

    #[test]
    fn a_queue_is_bounded_but_for_its_first_message() {
        let (queue, budget) = (ArrivalQueue::default(), budget());
        let push = |arrival| queue.push_for(&budget, arrival);

        assert_eq!(push(answer(0, CALL_LIMITS.bytes)), ArrivalPush::First);
        assert_eq!(push(answer(1, 0)), ArrivalPush::Full);
        assert_eq!(first(queue.pop()), Some(0));
        assert_eq!(push(answer(1, 0)), ArrivalPush::Waits);
    }
}
