//! Remembers what was refused, so that repeating it costs nothing.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

/// How many are remembered; beyond that the oldest goes first.
const MOST: usize = 1_024;

/// How many characters of a fault are kept; a registration's answer repeats fewer.
const FAULT: usize = 500;

/// Why it was refused.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// It cannot be built, whatever the room.
    Fault(Arc<str>),
    /// It takes at least this many bytes.
    Bytes(usize),
}

/// What was refused most recently, by its hash.
#[derive(Debug)]
pub(super) struct Refused<K> {
    by_hash: HashMap<K, Refusal>,
    by_age: VecDeque<K>,
}

// === impl Refusal ===

impl Refusal {
    /// The text of a fault as it is remembered.
    pub(super) fn fault(text: &str) -> Arc<str> {
        text.chars().take(FAULT).collect::<String>().into()
    }
}

// === impl Refused ===

impl<K> Default for Refused<K> {
    fn default() -> Self {
        Self {
            by_hash: HashMap::new(),
            by_age: VecDeque::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> Refused<K> {
    pub(super) fn get(&self, hash: &K) -> Option<Refusal> {
        self.by_hash.get(hash).cloned()
    }

    pub(super) fn add(&mut self, hash: K, refusal: Refusal) {
        if self.by_hash.insert(hash, refusal).is_none() {
            self.by_age.push_back(hash);
        }
        if self.by_age.len() > MOST
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.by_hash.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_is_remembered() {
        let mut refused = Refused::default();

        for i in 0..=MOST {
            refused.add(i, Refusal::Bytes(i));
        }

        assert!(refused.get(&0).is_none());
        assert!(matches!(refused.get(&MOST), Some(Refusal::Bytes(MOST))));
        assert_eq!((refused.by_hash.len(), refused.by_age.len()), (MOST, MOST));
    }
}
