//! The arrival queue of one call: answers that came from another hub and are not checked yet, and the loss of that hub
//! behind them.
//!
//! Invariants
//! - They are taken in the order in which they came, by one task at a time.
//! - A loss is taken once no answer waits any more. It needs no room, so that a full queue does not keep it out, and no
//!   more than one waits. What comes of the lost attempt after it is refused: what went before it may be missing.
//! - It is bounded in bytes, and all queues of a key by the budget of that key. Each message counts for a little more
//!   than its bytes, so the number of messages is bounded too.

use std::sync::Arc;

use alkhub_budget::Held;
use alkhub_queue::{Limits, Queue};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::directory::Instance;

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

/// An attempt of a call that was sent to another hub is lost.
#[derive(Debug)]
pub(crate) struct LostAttempt {
    pub(crate) attempt: u8,
    /// The registration that it was sent to.
    pub(crate) from: Arc<Instance>,
    pub(crate) with: LostWith,
}

/// What an attempt is lost with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LostWith {
    Hub,
    Conduit,
}

/// What is to be done next for a call.
#[derive(Debug)]
pub(crate) enum Waited {
    /// An arrival, with its charge.
    Arrival(Arrival, Held),
    Loss(LostAttempt),
}

/// The messages of one call that wait to be checked.
#[derive(Debug, Default)]
pub(crate) struct ArrivalQueue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// The arrivals with their charges, and what each counts for.
    arrivals: Queue<((Arrival, Held), usize)>,
    /// What happens once none of them is left.
    loss: Option<LostAttempt>,
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
    /// The attempt is lost, and its loss waits.
    Lost,
}

// === impl ArrivalQueue ===

impl ArrivalQueue {
    /// Adds an arrival, whose [`cost`] `held` covers.
    pub(crate) fn push(&self, arrival: Arrival, held: Held) -> ArrivalPush {
        let cost = cost(&arrival);
        let mut waiting = self.0.lock();
        let is_of = |loss: &LostAttempt| loss.attempt >= arrival.attempt;
        if !arrival.is_late && waiting.loss.as_ref().is_some_and(is_of) {
            return ArrivalPush::Lost;
        }
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

    /// Puts a loss behind what waits or is being checked.
    ///
    /// # Errors
    /// There is nothing, so that the loss comes now.
    pub(crate) fn push_loss(&self, loss: LostAttempt) -> Result<(), LostAttempt> {
        let mut waiting = self.0.lock();
        if !waiting.is_taken {
            return Err(loss);
        }
        // An attempt is lost once. An earlier one no longer matters.
        let is_known = |known: &LostAttempt| known.attempt >= loss.attempt;
        if !waiting.loss.as_ref().is_some_and(is_known) {
            waiting.loss = Some(loss);
        }
        Ok(())
    }

    /// What is to be done next; after `None` the call needs a task again.
    pub(crate) fn pop(&self) -> Option<Waited> {
        let mut waiting = self.0.lock();
        let next = match waiting.arrivals.pop() {
            Some(((arrival, held), _)) => Some(Waited::Arrival(arrival, held)),
            None => waiting.loss.take().map(Waited::Loss),
        };
        waiting.is_taken = next.is_some();
        next
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
    use crate::fixture::{budget, remote};

    fn answer(first: u8, bytes: usize) -> Arrival {
        let mut frame = vec![b' '; bytes.max(1)];
        frame[0] = first;
        Arrival {
            attempt: 0,
            is_late: false,
            frame: frame.into(),
        }
    }

    fn first(next: Option<Waited>) -> Option<u8> {
        match next? {
            Waited::Arrival(arrival, _) => Some(arrival.frame[0]),
            Waited::Loss(loss) => panic!("{loss:?}"),
        }
    }

    fn loss(attempt: u8, with: LostWith) -> LostAttempt {
        let from = remote("text/one@1", &[]);
        LostAttempt { attempt, from, with }
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

    #[test]
    fn a_loss_comes_behind_what_waits_however_much_that_is_and_at_once_where_nothing_does() {
        let (queue, budget) = (ArrivalQueue::default(), budget());
        let push = |arrival| queue.push_for(&budget, arrival);
        assert!(queue.push_loss(loss(0, LostWith::Hub)).is_err());
        assert_eq!(push(answer(0, CALL_LIMITS.bytes)), ArrivalPush::First);

        assert!(queue.push_loss(loss(0, LostWith::Hub)).is_ok());
        assert_eq!(first(queue.pop()), Some(0));
        let late = Arrival {
            is_late: true,
            ..answer(1, CALL_LIMITS.bytes)
        };
        assert_eq!(push(late), ArrivalPush::Waits, "a loss takes no room");
        assert_eq!(push(answer(2, 10)), ArrivalPush::Lost, "others before it may be lost");

        assert_eq!(first(queue.pop()), Some(1));
        assert!(matches!(
            queue.pop(),
            Some(Waited::Loss(LostAttempt {
                with: LostWith::Hub,
                ..
            }))
        ));
        assert!(queue.pop().is_none());
        assert_eq!(budget.used(), 0);
        assert!(queue.push_loss(loss(0, LostWith::Hub)).is_err());
    }

    #[test]
    fn while_an_answer_is_checked_one_loss_waits_the_first_of_the_last_attempt() {
        let (queue, budget) = (ArrivalQueue::default(), budget());
        queue.push_for(&budget, answer(0, 10));
        let checked = queue.pop();

        let losses = [
            (0, LostWith::Hub),
            (1, LostWith::Conduit),
            (1, LostWith::Hub),
            (0, LostWith::Hub),
        ];
        for (attempt, with) in losses {
            assert!(queue.push_loss(loss(attempt, with)).is_ok());
        }

        drop(checked);
        let Some(Waited::Loss(loss)) = queue.pop() else {
            panic!("no loss");
        };
        assert_eq!((loss.attempt, loss.with), (1, LostWith::Conduit));
        assert!(queue.pop().is_none());
    }
}
