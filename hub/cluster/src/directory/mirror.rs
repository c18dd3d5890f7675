//! The directory as this hub knows it: what it holds itself, and what the others hold, as Redis says.
//!
//! Invariants
//! - This hub's own entries reach the reader when they are made, not when they come back through Redis: calls on this
//!   pod continue while Redis is away.
//! - A generation is never given twice. Redis gives them from one counter; without Redis each hub goes beyond all that
//!   it has seen, and between two hubs the higher id counts ([`Fence`](crate::Fence)).
//! - The reader never holds up the feed: if its queue is full, it gets a snapshot once there is room.

use std::collections::{BTreeSet, HashMap, VecDeque};

use alkhub_protocol::HubId;
use alkhub_protocol::admin::InstanceState;
use alkhub_redis::{DirectoryWrite, StoredDirectory};
use jiff::Timestamp;

use super::changes::ChangeSender;
use super::feed::{self, FeedChange, Position};
use super::record::{self, InstanceKey};
use crate::entry::{DirectoryChange, DirectoryEntry, FeedMark, Fence};
use crate::leases::Leases;

/// Every entry that is known.
#[derive(Debug)]
pub(super) struct Mirror {
    hub: HubId,
    /// The entries of this hub: the truth about it, whatever Redis contains.
    own: HashMap<InstanceKey, DirectoryEntry>,
    /// The entries of the other hubs, as Redis contains them.
    others: HashMap<InstanceKey, DirectoryEntry>,
    /// The highest generation that this hub has given or seen: its next one is beyond it.
    highest: u64,
    /// Where the mirror stands in the feed; `None` if nowhere: it has to be loaded.
    position: Option<Position>,
    /// The way to the reader.
    changes: ChangeSender,
    /// The reader has to get a snapshot before anything else.
    snapshot_due: bool,
    /// Marks for the reader, each with the place that the mirror has to reach first; those without a place wait for the
    /// next load.
    marks: Vec<(Option<Position>, FeedMark)>,
    /// Marks whose place has been reached.
    due: VecDeque<FeedMark>,
}

/// The feed is no longer followed: the mirror has to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfStep;

// === impl Mirror ===

impl Mirror {
    pub(super) fn new(hub: HubId, changes: ChangeSender) -> Self {
        Self {
            hub,
            own: HashMap::new(),
            others: HashMap::new(),
            highest: 0,
            position: None,
            changes,
            snapshot_due: true,
            marks: Vec::new(),
            due: VecDeque::new(),
        }
    }

    /// Makes an entry one of this hub's, with a generation to propose.
    pub(super) fn adopt(&mut self, entry: &mut DirectoryEntry) {
        entry.hub = self.hub.clone();
        entry.generation = self.next_generation();
    }

    /// A generation beyond every one that this hub has given or seen, and at least the clock.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.highest = self.highest.saturating_add(1).max(clock_ms());
        self.highest
    }

    /// Notes a generation that somebody has given.
    pub(super) fn seen(&mut self, generation: u64) {
        self.highest = self.highest.max(generation);
    }

    /// Enters an entry of this hub.
    pub(super) fn register(&mut self, entry: DirectoryEntry) {
        let key = InstanceKey::of(&entry);
        self.others.remove(&key);
        self.emit(DirectoryChange::Put(entry.clone()));
        self.own.insert(key, entry);
    }

    /// Ends an entry of this hub, unless the entry is a later one.
    pub(super) fn unregister(&mut self, key: &InstanceKey, generation: u64) {
        if self.own.get(key).is_none_or(|entry| entry.generation > generation) {
            return;
        }
        if let Some(entry) = self.own.remove(key) {
            let InstanceKey { spoke, instance } = key.clone();
            self.emit(DirectoryChange::Remove {
                spoke,
                instance,
                generation: entry.generation,
                hub: entry.hub,
            });
        }
    }

    /// The entry of an instance that this hub holds.
    pub(super) fn held(&self, key: &InstanceKey) -> Option<&DirectoryEntry> {
        self.own.get(key)
    }

    /// Whether a record of the instance is known that takes precedence over this fence.
    pub(super) fn is_beyond(&self, key: &InstanceKey, fence: Fence<'_>) -> bool {
        let known = [self.own.get(key), self.others.get(key)];
        known.into_iter().flatten().any(|entry| entry.fence() > fence)
    }

    /// Notes whether the connection of an entry with this generation is away; returns the entry if this hub holds it
    /// and the state is new.
    pub(super) fn set_state(
        &mut self,
        key: &InstanceKey,
        generation: u64,
        is_reconnecting: bool,
    ) -> Option<&DirectoryEntry> {
        let state = match is_reconnecting {
            true => InstanceState::Reconnecting,
            false => InstanceState::Connected,
        };
        let entry = self.own.get_mut(key);
        let entry = entry.filter(|entry| entry.generation == generation && entry.state != state)?;
        entry.state = state;
        Some(entry)
    }

    /// The entries of this hub.
    pub(super) fn own(&self) -> impl Iterator<Item = (&InstanceKey, &DirectoryEntry)> {
        self.own.iter()
    }

    /// Another hub holds an entry of this hub by now; the next load brings it.
    pub(super) fn give_up(&mut self, key: &InstanceKey) {
        self.own.remove(key);
    }

    /// From now on the feed means nothing, until the next load.
    pub(super) fn leave_feed(&mut self) {
        self.position = None;
    }

    /// Puts a mark among the changes for the reader, behind the change at a place of the feed. A place in another life
    /// of the directory cannot be waited for: in that case the mark comes with whatever is loaded next.
    pub(super) fn mark(&mut self, to: &Position, mark: &FeedMark) -> Result<(), OutOfStep> {
        let at = self.position.as_ref();
        let is_of_another_life = at.is_some_and(|at| at.epoch != to.epoch);
        let to = at.filter(|_| !is_of_another_life).map(|_| to.clone());
        self.marks.push((to, mark.clone()));
        self.pass_marks();
        if is_of_another_life { Err(OutOfStep) } else { Ok(()) }
    }

    /// Takes over the whole directory. Returns the writes that unregister what Redis has of this hub but this hub does
    /// not hold. Entries of the `lapsed` hubs stay, because Redis has lost them while the hubs still hold them.
    pub(super) fn load(&mut self, stored: StoredDirectory, lapsed: &BTreeSet<HubId>) -> Vec<DirectoryWrite> {
        let StoredDirectory { epoch, number, entries } = stored;
        self.position = Some(Position { epoch, number });
        // Whoever waits asked before this was read.
        self.marks.iter_mut().for_each(|(to, _)| *to = self.position.clone());
        self.others.retain(|_, entry| lapsed.contains(&entry.hub));
        let mut stale = Vec::new();
        for (field, value) in entries {
            let Some(entry) = record::read(&field, &value) else {
                continue;
            };
            let key = InstanceKey::of(&entry);
            self.seen(entry.generation);
            if entry.hub != self.hub {
                self.own.remove(&key);
                self.others.insert(key, entry);
            } else if !self.own.contains_key(&key) {
                stale.push(DirectoryWrite::Unregister {
                    field,
                    generation: entry.generation,
                });
            }
        }
        self.snapshot_due = true;
        stale
    }

    /// Applies a message of the feed; what it says about leases goes to `leases`.
    pub(super) fn follow(&mut self, message: &[u8], leases: &Leases) -> Result<(), OutOfStep> {
        let Some(at) = &mut self.position else { return Ok(()) };
        let (position, change) = feed::read(message).ok_or(OutOfStep)?;
        if position.epoch != at.epoch || position.number > at.number + 1 {
            return Err(OutOfStep);
        }
        if position.number > at.number {
            *at = position;
            self.apply(change, leases)?;
            self.pass_marks();
        }
        Ok(())
    }

    fn apply(&mut self, change: FeedChange, leases: &Leases) -> Result<(), OutOfStep> {
        match change {
            FeedChange::Put(entry) => self.put(entry),
            FeedChange::Remove { key, generation, hub } => {
                let same = |entry: &DirectoryEntry| entry.hub == hub && entry.generation <= generation;
                if self.others.get(&key).is_some_and(same) {
                    self.others.remove(&key);
                    let InstanceKey { spoke, instance } = key;
                    self.emit(DirectoryChange::Remove {
                        spoke,
                        instance,
                        generation,
                        hub,
                    });
                }
            }
            // This hub was taken for dead: everything that it holds has to be asserted again.
            FeedChange::Gone(hub) if hub == self.hub => return Err(OutOfStep),
            FeedChange::Gone(hub) => {
                if leases.lapse(&hub) {
                    self.hub_gone(hub);
                }
            }
            FeedChange::Lease(hub, lease) => leases.observe(&hub, &lease),
            FeedChange::Unknown => {}
        }
        Ok(())
    }

    /// Another hub is gone, with everything that it held.
    pub(super) fn hub_gone(&mut self, hub: HubId) {
        self.others.retain(|_, entry| entry.hub != hub);
        self.emit(DirectoryChange::HubGone(hub));
    }

    fn put(&mut self, entry: DirectoryEntry) {
        let key = InstanceKey::of(&entry);
        self.seen(entry.generation);
        if entry.hub == self.hub {
            return self.echoed(&key, &entry);
        }
        // An older entry of another hub that was sent before one of this hub's own.
        if self.own.get(&key).is_some_and(|own| own.fence() > entry.fence()) {
            return;
        }
        self.own.remove(&key);
        self.others.insert(key, entry.clone());
        self.emit(DirectoryChange::Put(entry));
    }

    /// One of this hub's entries came back; it reached the reader when it was made. It may have ended since, before
    /// this hub heard of the entry that it had replaced: that one is removed now, because the feed will not mention it
    /// again.
    fn echoed(&mut self, key: &InstanceKey, own: &DirectoryEntry) {
        let replaced = |other: &DirectoryEntry| other.fence() < own.fence();
        if self.others.get(key).is_some_and(replaced)
            && let Some(other) = self.others.remove(key)
        {
            self.emit(DirectoryChange::Remove {
                spoke: other.spoke,
                instance: other.instance,
                generation: other.generation,
                hub: other.hub,
            });
        }
    }

    fn emit(&mut self, change: DirectoryChange) {
        if !self.snapshot_due {
            self.snapshot_due = self.changes.try_send(change).is_err();
        }
    }

    /// Finds the marks whose place has been reached, and gives them to the reader as far as it has room; a mark is just
    /// as true later.
    fn pass_marks(&mut self) {
        if let Some(at) = self.position.as_ref().filter(|_| !self.marks.is_empty()) {
            let has_come = |to: &Position| to.epoch != at.epoch || to.number <= at.number;
            let due = self.marks.extract_if(.., |(to, _)| to.as_ref().is_some_and(has_come));
            self.due.extend(due.map(|(_, mark)| mark));
        }
        while !self.snapshot_due
            && let Some(mark) = self.due.front()
            && self.changes.try_send(DirectoryChange::Mark(mark.clone())).is_ok()
        {
            self.due.pop_front();
        }
    }

    /// Waits until a snapshot or a mark is due and the reader has room for it.
    pub(super) async fn room(&self) {
        if self.snapshot_due || !self.due.is_empty() {
            self.changes.room().await;
        } else {
            std::future::pending().await
        }
    }

    /// Gives the reader whatever is due.
    pub(super) fn refill(&mut self) {
        if self.snapshot_due {
            self.snapshot();
        }
        self.pass_marks();
    }

    /// Gives the reader everything.
    fn snapshot(&mut self) {
        let entries = self.own.values().chain(self.others.values()).cloned().collect();
        self.snapshot_due = self.changes.try_send(DirectoryChange::Snapshot(entries)).is_err();
    }
}

fn clock_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
