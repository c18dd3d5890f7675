//! What the programs of one run share.

use std::sync::Arc;

use fastrand::Rng;
use tokio_util::sync::CancellationToken;

use crate::ledger::{End, Kind, Ledger};
use crate::world::Places;

/// The endings of the spokes' names; the last one belongs to the program without the SDK, whose specifications differ.
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];

/// A run as its programs see it.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) places: Arc<Places>,
    pub(crate) key: Arc<str>,
    /// The beginning of all names of this run.
    pub(crate) prefix: Arc<str>,
    pub(crate) seed: u64,
    /// Cancelled when no more calls should begin.
    pub(crate) stop: CancellationToken,
}

/// A call that its caller waits for; dropping this leaves the call.
#[derive(Debug)]
pub(crate) struct Waiting {
    ledger: Arc<Ledger>,
    pub(crate) number: u64,
    has_ended: bool,
}

// === impl Run ===

impl Run {
    /// A random generator of its own for a program.
    pub(crate) fn chance(&self, program: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(1_000).wrapping_add(program))
    }

    /// A random operation of this kind.
    pub(crate) fn operation(&self, chance: &mut Rng, kind: Kind) -> String {
        let name = NAMES[chance.usize(..NAMES.len())];
        self.named(name, kind)
    }

    /// A spoke's operation of this kind.
    pub(crate) fn named(&self, name: &str, kind: Kind) -> String {
        format!("{}{name}.{}", self.prefix, kind.name())
    }

    /// The topic of the run.
    pub(crate) fn topic(&self) -> String {
        format!("{}.topic:1", self.prefix)
    }

    pub(crate) fn begins(&self, operation: &str, kind: Kind) -> Waiting {
        Waiting {
            ledger: Arc::clone(&self.ledger),
            number: self.ledger.begins(operation, kind),
            has_ended: false,
        }
    }
}

// === impl Waiting ===

impl Waiting {
    pub(crate) fn ends(mut self, end: End) {
        self.has_ended = true;
        self.ledger.ended(self.number, end);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.has_ended {
            self.ledger.ended(self.number, End::Left);
        }
    }
}
