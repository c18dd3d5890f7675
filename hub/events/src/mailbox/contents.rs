//! What waits in a mailbox, as plain data without locks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::task::{Context, Poll};

use alkhub_protocol::{Topic, TopicFilter};
use alkhub_queue::{Limits, Queue, Waiter, Weigh};

use super::item::{Item, Loss, Pushed, Reason};
use crate::publication::Publication;

/// While too many events wait on the hub, a reader that lags behind keeps this many bytes.
pub(super) const PRESSED_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Losses that come before everything in `queue`.
    lost: BTreeMap<TopicFilter, Loss>,
    /// Only events count among its slots.
    queue: Queue<Slot>,
    /// Number of the slot at the front; slots are numbered in the order of pushing.
    front: u64,
    /// Gaps in `queue` that no event of their topic has followed yet, by the number of their slot.
    open: OpenGaps,
}

#[derive(Debug)]
enum Slot {
    Event { publication: Arc<Publication>, any: bool },
    Gap { filter: TopicFilter, loss: Loss },
}

#[derive(Debug, Default)]
struct OpenGaps {
    topics: HashMap<Topic, u64>,
    types: HashMap<Arc<str>, u64>,
}

// === impl Contents ===

impl Contents {
    pub(super) fn push(&mut self, publication: &Arc<Publication>, any: bool, limits: Limits) -> (Pushed, Waiter) {
        let mut pushed = Pushed::default();
        if self.queue.has_ended() {
            pushed.dropped = 1;
            return (pushed, Waiter::default());
        }
        let limits = if publication.is_pressed() {
            pressed(limits)
        } else {
            limits
        };
        while let Some(oldest) = self.queue.displace(publication.weight(), limits) {
            self.lose(oldest, &mut pushed);
        }
        self.open.close(&publication.topic);
        pushed.queued = true;
        let waiter = self.queue.add(Slot::Event {
            publication: publication.clone(),
            any,
        });
        (pushed, waiter)
    }

    /// Adds a gap; returns the reader if it will see one more gap.
    pub(super) fn push_gap(&mut self, filter: &TopicFilter, loss: Loss) -> Option<Waiter> {
        if self.queue.has_ended() {
            return None;
        }
        if let Some(number) = self.open.get(filter) {
            let place = usize::try_from(number - self.front).expect("an open gap lies in the queue");
            self.queue.change(place, |slot| {
                if let Slot::Gap { loss: known, .. } = slot {
                    known.add(loss);
                }
            });
            return None;
        }
        self.open.insert(filter, self.front + self.queue.len() as u64);
        Some(self.queue.add(Slot::Gap {
            filter: filter.clone(),
            loss,
        }))
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        if let Some((filter, loss)) = self.lost.pop_first() {
            return Some(loss.item(&filter));
        }
        let slot = self.queue.pop()?;
        self.left(&slot);
        Some(match slot {
            Slot::Event { publication, .. } => Item::Event(publication),
            Slot::Gap { filter, loss } => loss.item(&filter),
        })
    }

    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<Option<Item>> {
        if let Some(item) = self.pop() {
            return Poll::Ready(Some(item));
        }
        if self.queue.has_ended() {
            return Poll::Ready(None);
        }
        self.queue.wait(context);
        Poll::Pending
    }

    /// Events that wait.
    #[cfg(test)]
    pub(super) fn events(&self) -> usize {
        self.queue.counted()
    }

    /// Accepts nothing more.
    pub(super) fn close(&mut self) -> Waiter {
        self.queue.end()
    }

    /// Accepts nothing more, and drops what waits.
    pub(super) fn end(&mut self) -> Waiter {
        self.lost.clear();
        self.open = OpenGaps::default();
        self.queue.take_all();
        self.queue.end()
    }

    /// Turns the oldest slot into a loss.
    fn lose(&mut self, oldest: Slot, pushed: &mut Pushed) {
        self.left(&oldest);
        let (filter, loss, was_gap) = match oldest {
            Slot::Event { publication, any } => {
                pushed.dropped += 1;
                let loss = Loss {
                    reason: Reason::Overflow,
                    missed: Some(1),
                };
                (filter_of(&publication.topic, any), loss, false)
            }
            Slot::Gap { filter, loss } => (filter, loss, true),
        };
        match self.lost.get_mut(&filter) {
            Some(known) => known.add(loss),
            None => {
                self.lost.insert(filter, loss);
                pushed.gaps += usize::from(!was_gap);
            }
        }
    }

    /// Notes that the slot has left the front of the queue.
    fn left(&mut self, slot: &Slot) {
        if let Slot::Gap { filter, .. } = slot {
            self.open.forget(filter, self.front);
        }
        self.front += 1;
    }
}

// === impl Slot ===

impl Weigh for Slot {
    fn bytes(&self) -> usize {
        match self {
            Self::Event { publication, .. } => publication.weight(),
            Self::Gap { .. } => 0,
        }
    }

    fn counts(&self) -> bool {
        matches!(self, Self::Event { .. })
    }
}

// === impl OpenGaps ===

impl OpenGaps {
    fn get(&self, filter: &TopicFilter) -> Option<u64> {
        match filter {
            TopicFilter::One(topic) => self.topics.get(topic),
            TopicFilter::AllOf(event_type) => self.types.get(event_type),
        }
        .copied()
    }

    fn insert(&mut self, filter: &TopicFilter, number: u64) {
        match filter {
            TopicFilter::One(topic) => self.topics.insert(topic.clone(), number),
            TopicFilter::AllOf(event_type) => self.types.insert(event_type.clone(), number),
        };
    }

    /// Notes that an event of the topic was added: a later gap is a new gap.
    fn close(&mut self, topic: &Topic) {
        if !self.topics.is_empty() {
            self.topics.remove(topic);
        }
        if !self.types.is_empty() {
            self.types.remove(topic.event_type());
        }
    }

    /// Notes that the slot leaves the queue.
    fn forget(&mut self, filter: &TopicFilter, number: u64) {
        if self.get(filter) == Some(number) {
            match filter {
                TopicFilter::One(topic) => self.topics.remove(topic),
                TopicFilter::AllOf(event_type) => self.types.remove(event_type),
            };
        }
    }
}

/// The limits while the events of all readers together exceed `events.waiting-bytes`.
fn pressed(limits: Limits) -> Limits {
    Limits {
        bytes: limits.bytes.min(PRESSED_BYTES),
        ..limits
    }
}

/// The filter through which a subscriber was reached.
fn filter_of(topic: &Topic, any: bool) -> TopicFilter {
    if any {
        TopicFilter::AllOf(topic.event_type().into())
    } else {
        TopicFilter::One(topic.clone())
    }
}
