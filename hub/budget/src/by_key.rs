//! What belongs to each key, remembered for as long as somebody holds it.
//!
//! Invariants
//! - Whoever asks for a key's value while another holds it gets the same one.
//! - Keys whose values nobody holds are forgotten when there are too many keys: nobody fills the memory with names.

use std::sync::Arc;

use dashmap::DashMap;

/// Values by the ids of keys.
#[derive(Debug)]
pub struct ByKey<T> {
    values: DashMap<Arc<str>, Arc<T>>,
    idle: usize,
}

// === impl ByKey ===

impl<T> ByKey<T> {
    /// Nothing yet. From `idle` keys on, those that nobody holds are forgotten whenever a new one comes.
    pub fn new(idle: usize) -> Self {
        Self {
            values: DashMap::new(),
            idle,
        }
    }

    /// The value of a key; a new one if none is remembered.
    pub fn get(&self, key: &Arc<str>, new: impl FnOnce() -> T) -> Arc<T> {
        if let Some(known) = self.values.get(key) {
            return Arc::clone(&known);
        }
        if self.values.len() >= self.idle {
            self.values.retain(|_, value| Arc::strong_count(value) > 1);
        }
        let entry = self.values.entry(Arc::clone(key));
        Arc::clone(&entry.or_insert_with(|| Arc::new(new())))
    }

    /// How many keys are remembered.
    pub fn remembered(&self) -> usize {
        self.values.len()
    }
}
