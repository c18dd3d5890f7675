//! Items between the hub and a [`crate::Items`].
//!
//! Invariants
//! - What waits is charged to the reader's key, and the charge goes along with the item: whoever reads it decides when
//!   it is released.

use std::task::{Context, Poll};

use alkhub_budget::{Budget, Held, Kept};
use alkhub_protocol::{CallError, RawJson};
use alkhub_queue::{Full, Limits, Queue, Weigh};
use parking_lot::Mutex;

use crate::leg::outcome::{Bounds, End, ItemPush, Overflow, given_up};

/// The approximate cost of an item besides its bytes.
const ITEM_BYTES: usize = 128;

/// The queue of one reader.
#[derive(Debug)]
pub(crate) struct ItemQueue {
    budget: Budget,
    waiting: Mutex<Queue<Charged>>,
}

/// An item, or why there is none; with the charge to the reader's key for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Charged {
    /// What the spoke sent.
    pub(crate) item: Result<RawJson, CallError>,
    /// Its bytes.
    _charge: Held,
}

// === impl ItemQueue ===

impl ItemQueue {
    /// An empty queue for a reader whose key has this budget.
    pub(crate) fn new(budget: &Budget) -> Self {
        Self {
            budget: budget.clone(),
            waiting: Mutex::default(),
        }
    }

    pub(super) fn push(&self, item: RawJson, bounds: Bounds) -> ItemPush {
        let limits = Limits {
            items: bounds.items,
            bytes: bounds.bytes,
        };
        let mut waiting = self.waiting.lock();
        match waiting.room(item.len(), limits) {
            Ok(()) => {}
            Err(Full::Queue) => return ItemPush::Overflow(Overflow::Subscription),
            Err(Full::Ended) => return ItemPush::Gone,
        }
        let charge = match self.budget.take(Kept::Items, item.len() + ITEM_BYTES) {
            Ok(charge) => charge,
            Err(exhausted) => return ItemPush::Overflow(Overflow::Budget(exhausted)),
        };
        let waiter = waiting.add(Charged::new(Ok(item), charge));
        drop(waiting);
        waiter.wake();
        ItemPush::Item
    }

    pub(super) fn end(&self, end: End) {
        let last = match end {
            End::Output(output) => {
                let charge = self.budget.take(Kept::Items, output.len() + ITEM_BYTES);
                Some(match charge {
                    Ok(charge) => Charged::new(Ok(output), charge),
                    Err(exhausted) => self.failure(exhausted.into()),
                })
            }
            End::Failed(error) => Some(self.failure(error)),
            End::Aborted => Some(self.failure(given_up())),
            End::Completed | End::Stopped(_) | End::Silent => None,
        };
        let mut waiting = self.waiting.lock();
        let waiter = match last {
            Some(last) => waiting.end_with(last),
            None => waiting.end(),
        };
        drop(waiting);
        waiter.wake();
    }

    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Charged>> {
        self.waiting.lock().poll(cx)
    }

    /// The failure that is the end. If the budget is full, it comes without its details.
    fn failure(&self, mut error: CallError) -> Charged {
        let bytes = error.details.as_ref().map_or(0, RawJson::len);
        let charge = match self.budget.take(Kept::Items, bytes) {
            Ok(charge) => charge,
            Err(_) => {
                error.details = None;
                self.budget.nothing(Kept::Items)
            }
        };
        Charged::new(Err(error), charge)
    }
}

// === impl Charged ===

impl Charged {
    fn new(item: Result<RawJson, CallError>, charge: Held) -> Self {
        Self { item, _charge: charge }
    }
}

impl Weigh for Charged {
    fn bytes(&self) -> usize {
        self.item.as_ref().map_or(0, RawJson::len)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use alkhub_protocol::Code;

    use super::*;
    use crate::fixture::budget;

    const BOUNDS: Bounds = Bounds {
        items: 10,
        bytes: 1 << 20,
    };

    fn next(queue: &ItemQueue) -> Option<Charged> {
        match queue.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => next,
            Poll::Pending => panic!("nothing waits"),
        }
    }

    fn large() -> RawJson {
        RawJson::parse(format!("\"{}\"", "x".repeat(100_000)).into_bytes()).expect("JSON")
    }

    #[test]
    fn an_item_is_charged_until_its_reader_lets_it_go() {
        let budget = budget();
        let queue = ItemQueue::new(&budget);
        assert_eq!(queue.push(large(), BOUNDS), ItemPush::Item);

        let charged = next(&queue).expect("an item");

        assert!(budget.used() > 100_000);
        drop(charged);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_details_of_a_failure_are_charged_and_left_out_where_the_budget_is_full() {
        let budget = budget();
        let failure = || End::Failed(CallError::new(Code::Internal, "it broke").details(large()));
        let (first, second) = (Arc::new(ItemQueue::new(&budget)), ItemQueue::new(&budget));
        first.end(failure());
        assert!(budget.used() > 100_000);
        let rest = alkhub_config::BudgetConfig::default().key_bytes - budget.used() - 1_000;
        let _other = budget.take(Kept::Calls, rest).expect("room");

        second.end(failure());

        let error = next(&second).expect("the end").item.expect_err("it failed");
        assert_eq!((error.message.as_str(), error.details), ("it broke", None));
        let error = next(&first).expect("the end").item.expect_err("it failed");
        assert!(error.details.is_some());
        assert!(next(&first).is_none());
    }
}
