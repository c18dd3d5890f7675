//! What waits in a mailbox, as plain data without locks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use alkhub_protocol::{Topic, TopicFilter};

use super::item::{Item, Lag, Limits, Loss, Pushed, Reason};
use crate::publication::Publication;

/// A queue that grew beyond this gives its memory back when it is empty.
const KEPT_SLOTS: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) waker: Option<Waker>,
    /// Losses that lie before everything in `queue`.
    lost: BTreeMap<TopicFilter, Loss>,
    queue: VecDeque<Slot>,
    /// Number of the slot at the front; slots are numbered in the order of pushing.
    front: u64,
    /// Gaps in `queue` that no event of their topic has followed, by the number of their slot.
    open: OpenGaps,
    events: usize,
    bytes: usize,
    phase: Phase,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Running,
    /// [`Lag::Disconnect`] struck; the reader does not know yet.
    Overflowed,
    /// Nothing goes in or out any more.
    Ended,
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
    pub(super) fn push(&mut self, publication: &Arc<Publication>, any: bool, limits: Limits, lag: Lag) -> Pushed {
        let mut pushed = Pushed::default();
        if self.phase != Phase::Running {
            pushed.dropped = 1;
            return pushed;
        }
        let weight = publication.weight();
        let limits = if publication.is_pressed() {
            limits.pressed()
        } else {
            limits
        };
        while !self.fits(weight, limits) {
            if lag == Lag::Disconnect {
                pushed.dropped = self.events + 1;
                self.end(Phase::Overflowed);
                return pushed;
            }
            self.drop_front(&mut pushed);
        }
        self.open.close(&publication.topic);
        self.queue.push_back(Slot::Event {
            publication: publication.clone(),
            any,
        });
        self.events += 1;
        self.bytes += weight;
        pushed.queued = true;
        pushed
    }

    /// Whether the reader will see one gap more.
    pub(super) fn push_gap(&mut self, filter: &TopicFilter, loss: Loss) -> bool {
        if self.phase != Phase::Running {
            return false;
        }
        if let Some(number) = self.open.get(filter) {
            let index = usize::try_from(number - self.front).expect("an open gap lies in the queue");
            if let Some(Slot::Gap { loss: known, .. }) = self.queue.get_mut(index) {
                known.add(loss);
            }
            return false;
        }
        self.open.insert(filter, self.front + self.queue.len() as u64);
        self.queue.push_back(Slot::Gap {
            filter: filter.clone(),
            loss,
        });
        true
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        if let Some((filter, loss)) = self.lost.pop_first() {
            return Some(loss.item(&filter));
        }
        if self.phase == Phase::Overflowed {
            self.phase = Phase::Ended;
            return Some(Item::Overflowed);
        }
        let item = match self.pop_slot()? {
            Slot::Event { publication, .. } => Item::Event(publication),
            Slot::Gap { filter, loss } => loss.item(&filter),
        };
        if self.queue.is_empty() && self.queue.capacity() > KEPT_SLOTS {
            self.queue = VecDeque::new();
        }
        Some(item)
    }

    pub(super) fn events(&self) -> usize {
        self.events
    }

    pub(super) fn ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    pub(super) fn close(&mut self) {
        self.end(Phase::Ended);
    }

    fn end(&mut self, phase: Phase) {
        *self = Self {
            phase,
            waker: self.waker.take(),
            ..Self::default()
        };
    }

    fn fits(&self, weight: usize, limits: Limits) -> bool {
        self.events == 0 || (self.events < limits.items && self.bytes + weight <= limits.bytes)
    }

    /// Turns the oldest slot into a loss.
    fn drop_front(&mut self, pushed: &mut Pushed) {
        let (filter, loss, was_gap) = match self.pop_slot() {
            Some(Slot::Event { publication, any }) => {
                pushed.dropped += 1;
                let loss = Loss {
                    reason: Reason::Overflow,
                    missed: Some(1),
                };
                (filter_of(&publication.topic, any), loss, false)
            }
            Some(Slot::Gap { filter, loss }) => (filter, loss, true),
            None => return,
        };
        match self.lost.get_mut(&filter) {
            Some(known) => known.add(loss),
            None => {
                self.lost.insert(filter, loss);
                pushed.gaps += usize::from(!was_gap);
            }
        }
    }

    fn pop_slot(&mut self) -> Option<Slot> {
        let slot = self.queue.pop_front()?;
        match &slot {
            Slot::Event { publication, .. } => {
                self.events -= 1;
                self.bytes -= publication.weight();
            }
            Slot::Gap { filter, .. } => self.open.forget(filter, self.front),
        }
        self.front += 1;
        Some(slot)
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

    /// An event of the topic goes in: a later gap is another gap.
    fn close(&mut self, topic: &Topic) {
        if !self.topics.is_empty() {
            self.topics.remove(topic);
        }
        if !self.types.is_empty() {
            self.types.remove(topic.event_type());
        }
    }

    /// The slot leaves the queue.
    fn forget(&mut self, filter: &TopicFilter, number: u64) {
        if self.get(filter) == Some(number) {
            match filter {
                TopicFilter::One(topic) => self.topics.remove(topic),
                TopicFilter::AllOf(event_type) => self.types.remove(event_type),
            };
        }
    }
}

/// The filter by which a subscriber was reached.
fn filter_of(topic: &Topic, any: bool) -> TopicFilter {
    if any {
        TopicFilter::AllOf(topic.event_type().into())
    } else {
        TopicFilter::One(topic.clone())
    }
}
