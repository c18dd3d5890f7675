//! Names that nobody offers now, kept to tell `NO_PROVIDER` from `OPERATION_NOT_FOUND`.

use std::collections::{BTreeMap, HashMap};

use alkhub_protocol::OperationName;

/// Each name once, in the order in which they were last offered.
#[derive(Debug, Default)]
pub(super) struct Idle {
    turn: u64,
    by_turn: BTreeMap<u64, OperationName>,
    turns: HashMap<OperationName, u64>,
}

// === impl Idle ===

impl Idle {
    /// Notes that nobody offers a name any more. A name that is here already keeps its turn.
    pub(super) fn add(&mut self, name: &OperationName) {
        if self.turns.contains_key(name) {
            return;
        }
        self.turn += 1;
        self.by_turn.insert(self.turn, name.clone());
        self.turns.insert(name.clone(), self.turn);
    }

    /// Notes that somebody offers a name.
    pub(super) fn remove(&mut self, name: &OperationName) {
        if let Some(turn) = self.turns.remove(name) {
            self.by_turn.remove(&turn);
        }
    }

    /// Takes out the name that has gone unoffered for longest, while there are more than `limit`.
    pub(super) fn take_over(&mut self, limit: usize) -> Option<OperationName> {
        if self.turns.len() <= limit {
            return None;
        }
        let (_, name) = self.by_turn.pop_first()?;
        self.turns.remove(&name);
        Some(name)
    }
}
