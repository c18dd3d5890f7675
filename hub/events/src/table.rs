//! Who wants what: the subscription table.
//!
//! It is read for every publish and every message from Redis, so its lists are copied on writing and shared on reading:
//! no lock is held while events are pushed.
//!
//! Invariants
//! - A mailbox is in a list at most once, however often it subscribed.
//! - With Redis, an entry outlives its last subscriber until [`Table::expire`], which removes it only if nobody has
//!   subscribed in between (the revision is unchanged).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_protocol::{Topic, TopicFilter};
use alkhub_redis::{Expiry, Idle};
use parking_lot::RwLock;

use crate::mailbox::{Loss, MailboxQueue};
use crate::publication::{Publication, WaitingBytes};

const SHARDS: usize = 64;

/// Every subscription of this hub.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Vec<RwLock<Shard>>,
    hasher: RandomState,
    /// How many entries there are for all ids of a type; if there are none, a publish needs one look-up only.
    types: AtomicUsize,
    /// What waits for readers, over all topics.
    live: Arc<WaitingBytes>,
}

/// The readers of an event: those of its topic, and those of all ids of its type that are not among the former.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    one: Option<List>,
    any: Option<List>,
}

/// The result of pushing to all readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Readers that have it queued.
    pub(crate) delivered: usize,
    /// How many events readers lost because of it.
    pub(crate) dropped: usize,
    /// Gaps that readers will see.
    pub(crate) gaps: usize,
}

type List = Arc<[Subscriber]>;

#[derive(Debug, Default)]
struct Shard {
    topics: HashMap<Box<str>, Entry>,
    types: HashMap<Box<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    filter: TopicFilter,
    list: List,
    /// The incarnation of the link that confirmed it; 0 if none did, or that one has ended.
    incarnation: u64,
    /// An incarnation that had confirmed it has ended, and the readers have not got their gap yet.
    gap_due: bool,
    /// Changes whenever a list gets its first subscriber.
    revision: u64,
    /// Whether the transport knows that it is idle, and will ask at the end of the grace period.
    reported: bool,
}

#[derive(Clone, Debug)]
struct Subscriber {
    queue: Arc<MailboxQueue>,
    /// How many subscriptions of the same mailbox there are.
    uses: u32,
}

// === impl Table ===

impl Table {
    /// A table without entries; `waiting_bytes` is how many bytes of events may wait on the hub before lagging readers
    /// must drop some.
    pub(crate) fn new(waiting_bytes: usize) -> Self {
        Self {
            live: WaitingBytes::new(waiting_bytes),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            types: AtomicUsize::new(0),
        }
    }

    /// Counts the waiting events of this hub.
    pub(crate) fn live(&self) -> &Arc<WaitingBytes> {
        &self.live
    }

    /// Adds a subscriber; returns the incarnation that confirmed the entry, or 0 if none did.
    pub(crate) fn join(&self, filter: &TopicFilter, queue: &Arc<MailboxQueue>) -> u64 {
        let mut shard = self.shard(key(filter)).write();
        let entries = shard.entries_mut(filter);
        if !entries.contains_key(key(filter)) {
            if matches!(filter, TopicFilter::AllOf(_)) {
                self.types.fetch_add(1, Ordering::Release);
            }
            entries.insert(key(filter).into(), Entry::new(filter));
        }
        let entry = entries.get_mut(key(filter)).expect("the entry was made above");
        entry.join(queue);
        entry.incarnation
    }

    /// Removes one subscription of a mailbox. `Some`: nobody wants the entry any more, and this has not been reported
    /// yet; it stays until [`Table::expire`].
    pub(crate) fn leave(&self, filter: &TopicFilter, queue: &Arc<MailboxQueue>) -> Option<Idle> {
        let mut shard = self.shard(key(filter)).write();
        let entry = shard.entries_mut(filter).get_mut(key(filter))?;
        entry.leave(queue);
        if entry.reported || !entry.list.is_empty() {
            return None;
        }
        entry.reported = true;
        Some(Idle {
            filter: filter.clone(),
            revision: entry.revision,
        })
    }

    /// Removes an entry that nobody has wanted since it was reported.
    pub(crate) fn expire(&self, idle: &Idle) -> Expiry {
        let mut shard = self.shard(key(&idle.filter)).write();
        let entries = shard.entries_mut(&idle.filter);
        let Some(entry) = entries.get_mut(key(&idle.filter)) else {
            return Expiry::Wanted;
        };
        if !entry.list.is_empty() {
            entry.reported = false;
            return Expiry::Wanted;
        }
        if entry.revision != idle.revision {
            return Expiry::Again(Idle {
                revision: entry.revision,
                ..idle.clone()
            });
        }
        entries.remove(key(&idle.filter));
        if matches!(idle.filter, TopicFilter::AllOf(_)) {
            self.types.fetch_sub(1, Ordering::Release);
        }
        Expiry::Removed
    }

    /// The incarnation that confirmed an entry, or 0 if none did; `None`: there is no such entry.
    pub(crate) fn incarnation(&self, filter: &TopicFilter) -> Option<u64> {
        let shard = self.shard(key(filter)).read();
        let entries = match filter {
            TopicFilter::One(_) => &shard.topics,
            TopicFilter::AllOf(_) => &shard.types,
        };
        entries.get(key(filter)).map(|entry| entry.incarnation)
    }

    /// The readers of a topic.
    pub(crate) fn readers(&self, topic: &str, event_type: &str) -> Readers {
        let list = |entry: &Entry| (!entry.list.is_empty()).then(|| entry.list.clone());
        let one = self.shard(topic).read().topics.get(topic).and_then(list);
        let any = if self.types.load(Ordering::Acquire) == 0 {
            None
        } else {
            self.shard(event_type).read().types.get(event_type).and_then(list)
        };
        Readers { one, any }
    }

    /// A new incarnation of the link begins: nothing is confirmed any more. Returns every filter that has an entry.
    pub(crate) fn begin(&self) -> Vec<TopicFilter> {
        let mut filters = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.write();
            let Shard { topics, types } = &mut *shard;
            for entry in topics.values_mut().chain(types.values_mut()) {
                entry.gap_due |= entry.incarnation != 0;
                entry.incarnation = 0;
                filters.push(entry.filter.clone());
            }
        }
        filters
    }

    /// Notes that the transport confirmed an entry in an incarnation.
    pub(crate) fn mark(&self, filter: &TopicFilter, incarnation: u64) {
        let mut shard = self.shard(key(filter)).write();
        if let Some(entry) = shard.entries_mut(filter).get_mut(key(filter)) {
            entry.incarnation = incarnation;
        }
    }

    /// The stream of messages has reached the confirmation of an entry. `Some`: an earlier incarnation had confirmed
    /// it, so these readers may have missed events in between.
    pub(crate) fn resumed(&self, filter: &TopicFilter) -> Option<Readers> {
        let mut shard = self.shard(key(filter)).write();
        let entry = shard.entries_mut(filter).get_mut(key(filter))?;
        let list = Some(entry.list.clone());
        std::mem::take(&mut entry.gap_due).then_some(match filter {
            TopicFilter::One(_) => Readers { one: list, any: None },
            TopicFilter::AllOf(_) => Readers { one: None, any: list },
        })
    }

    fn shard(&self, key: &str) -> &RwLock<Shard> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash % SHARDS as u64).expect("the remainder is below the number of shards");
        &self.shards[index]
    }
}

// === impl Shard ===

impl Shard {
    fn entries_mut(&mut self, filter: &TopicFilter) -> &mut HashMap<Box<str>, Entry> {
        match filter {
            TopicFilter::One(_) => &mut self.topics,
            TopicFilter::AllOf(_) => &mut self.types,
        }
    }
}

// === impl Entry ===

impl Entry {
    fn new(filter: &TopicFilter) -> Self {
        Self {
            filter: filter.clone(),
            list: Arc::default(),
            incarnation: 0,
            gap_due: false,
            revision: 0,
            reported: false,
        }
    }

    fn join(&mut self, queue: &Arc<MailboxQueue>) {
        if self.list.is_empty() {
            self.revision += 1;
        }
        let mut list = self.list.to_vec();
        match position(&list, queue) {
            Ok(index) => list[index].uses += 1,
            Err(index) => list.insert(
                index,
                Subscriber {
                    queue: queue.clone(),
                    uses: 1,
                },
            ),
        }
        self.list = list.into();
    }

    fn leave(&mut self, queue: &Arc<MailboxQueue>) {
        let mut list = self.list.to_vec();
        let Ok(index) = position(&list, queue) else { return };
        list[index].uses -= 1;
        if list[index].uses == 0 {
            list.remove(index);
        }
        self.list = list.into();
    }
}

// === impl Readers ===

impl Readers {
    pub(crate) fn is_empty(&self) -> bool {
        self.one.is_none() && self.any.is_none()
    }

    /// Pushes an event to each reader once.
    pub(crate) fn push(&self, publication: &Arc<Publication>) -> Spread {
        let mut spread = Spread::default();
        self.each(|queue, any| {
            let pushed = queue.push(publication, any);
            spread.delivered += usize::from(pushed.queued);
            spread.dropped += pushed.dropped;
            spread.gaps += pushed.gaps;
        });
        spread
    }

    /// Pushes a gap to each reader, under the topic that it asked for; returns how many gaps they will see.
    pub(crate) fn push_gap(&self, topic: &Topic, loss: Loss) -> usize {
        let one = TopicFilter::One(topic.clone());
        let any = TopicFilter::AllOf(topic.event_type().into());
        let mut gaps = 0;
        self.each(|queue, is_any| gaps += queue.push_gap(if is_any { &any } else { &one }, loss));
        gaps
    }

    /// [`Readers::push_gap`] for the readers of one filter.
    pub(crate) fn push_gap_of(&self, filter: &TopicFilter, loss: Loss) -> usize {
        let mut gaps = 0;
        self.each(|queue, _| gaps += queue.push_gap(filter, loss));
        gaps
    }

    fn each(&self, mut push: impl FnMut(&MailboxQueue, bool)) {
        let one: &[Subscriber] = self.one.as_deref().unwrap_or_default();
        for subscriber in one {
            push(&subscriber.queue, false);
        }
        for subscriber in self.any.as_deref().unwrap_or_default() {
            if one.is_empty() || position(one, &subscriber.queue).is_err() {
                push(&subscriber.queue, true);
            }
        }
    }
}

/// The key under which an entry is found.
fn key(filter: &TopicFilter) -> &str {
    match filter {
        TopicFilter::One(topic) => topic.as_str(),
        TopicFilter::AllOf(event_type) => event_type,
    }
}

/// Lists are ordered by the addresses of their mailboxes.
fn position(list: &[Subscriber], queue: &Arc<MailboxQueue>) -> Result<usize, usize> {
    list.binary_search_by_key(&Arc::as_ptr(queue).addr(), |subscriber| {
        Arc::as_ptr(&subscriber.queue).addr()
    })
}

#[cfg(test)]
mod tests;
