//! The live groups of `group_by`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::held::Held;

/// What a group costs besides its key and its items, in bytes.
const OVERHEAD: usize = 192;

/// Groups by key, and the order in which they were last used.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<Arc<str>, Group>,
    /// The longest idle one is the first.
    order: BTreeMap<u64, Arc<str>>,
    next: u64,
    bytes: usize,
    items: usize,
}

#[derive(Debug)]
struct Group {
    /// The key as the first event of the group had it.
    name: String,
    held: Held,
    place: u64,
    used: Instant,
}

// === impl Groups ===

impl Groups {
    /// Groups, items and bytes.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        (self.groups.len(), self.items, self.bytes)
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.groups.contains_key(key)
    }

    /// The bytes that one more payload costs.
    pub(super) fn cost(&self, key: &str, name: &str, payload: &str) -> usize {
        let new = if self.contains(key) {
            0
        } else {
            OVERHEAD + 2 * key.len() + name.len()
        };
        new + payload.len() + 2
    }

    /// The bytes that the group of a key would be emitted with, with one more payload.
    pub(super) fn emitted(&self, key: &str, name: &str, payload: &str) -> usize {
        let held = self.groups.get(key).map_or(0, |group| group.held.bytes());
        held + name.len() + payload.len() + 32
    }

    /// Adds a payload to the group of a key; says how many it has now.
    pub(super) fn add(&mut self, key: &str, name: &str, payload: &str, now: Instant) -> usize {
        self.bytes += self.cost(key, name, payload);
        self.items += 1;
        let place = self.next;
        self.next += 1;
        let key: Arc<str> = key.into();
        self.order.insert(place, Arc::clone(&key));
        let group = self.groups.entry(key).or_insert_with(|| Group {
            name: name.to_owned(),
            held: Held::default(),
            place,
            used: now,
        });
        if group.place != place {
            self.order.remove(&group.place);
        }
        (group.place, group.used) = (place, now);
        group.held.add(payload);
        group.held.count
    }

    /// Ends the group of a key: `{"key": …, "items": […]}`.
    pub(super) fn end(&mut self, key: &str) -> Option<String> {
        let (key, mut group) = self.groups.remove_entry(key)?;
        self.order.remove(&group.place);
        self.items -= group.held.count;
        let items = group.held.count;
        let texts = group.held.bytes() - items;
        self.bytes -= OVERHEAD + 2 * key.len() + group.name.len() + texts + 2 * items;
        Some(format!("{{\"key\":{},\"items\":{}}}", group.name, group.held.take()))
    }

    /// Ends the group that has been idle for longest, except that of `spared`.
    pub(super) fn end_oldest(&mut self, spared: Option<&str>) -> Option<String> {
        let key = self.order.values().find(|key| Some(&***key) != spared)?;
        let key = Arc::clone(key);
        self.end(&key)
    }

    /// When the next group has been idle for long enough.
    pub(super) fn deadline(&self, idle: Duration) -> Option<Instant> {
        let key = self.order.values().next()?;
        self.groups.get(key).map(|group| group.used + idle)
    }
}
