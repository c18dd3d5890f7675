//! Specifications that were refused, so that the same again costs nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use alkhub_store::SpecHash;

/// As many are remembered; the oldest goes first.
const MOST: usize = 1_024;

/// Characters of a fault that are kept; a registration tells fewer.
const FAULT: usize = 500;

/// Why it was refused.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// It cannot be used, whatever the budget.
    Fault(Arc<str>),
    /// It takes at least so many bytes.
    Bytes(usize),
}

/// What was refused last.
#[derive(Debug, Default)]
pub(super) struct Refused {
    by_hash: HashMap<SpecHash, Refusal>,
    by_age: VecDeque<SpecHash>,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn fault(text: &str) -> Self {
        Self::Fault(text.chars().take(FAULT).collect::<String>().into())
    }
}

// === impl Refused ===

impl Refused {
    pub(super) fn get(&self, hash: &SpecHash) -> Option<Refusal> {
        self.by_hash.get(hash).cloned()
    }

    pub(super) fn add(&mut self, hash: SpecHash, refusal: Refusal) {
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
    use crate::fixture::spec;

    #[test]
    fn a_bounded_number_is_remembered() {
        let mut refused = Refused::default();
        let hash = |i: usize| SpecHash::of(&spec(&format!("text.op{i}"), "true"));

        for i in 0..=MOST {
            refused.add(hash(i), Refusal::Bytes(i));
        }

        assert!(refused.get(&hash(0)).is_none());
        assert!(matches!(refused.get(&hash(MOST)), Some(Refusal::Bytes(MOST))));
        assert_eq!((refused.by_hash.len(), refused.by_age.len()), (MOST, MOST));
    }
}
