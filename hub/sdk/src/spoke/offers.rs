//! What a spoke offers, which may change while it runs.
//!
//! Invariants
//! - Each change has a number of its own: a session that has registered with another number is registered anew.
//! - A handler exists from before its operation is offered until no session offers it any more: calls may arrive before
//!   the hub's answer to either.
//! - The hash by which a hub knows a specification is kept with that specification, and is never used for another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use alkhub_protocol::register::RegisterOutput;
use alkhub_protocol::{OperationName, RawJson};
use parking_lot::{Mutex, RwLock};

use super::operation::{NewOffer, Run};

/// All that a spoke offers.
#[derive(Debug)]
pub(super) struct Offers(RwLock<Offered>);

#[derive(Clone, Debug)]
struct Offered {
    number: u64,
    offers: Vec<Arc<Offer>>,
    /// Also those that are no longer offered, for as long as a session may be called for them.
    runs: HashMap<OperationName, Run>,
}

/// An operation that is offered.
#[derive(Debug)]
pub(super) struct Offer {
    name: OperationName,
    spec: RawJson,
    /// The hash by which hubs know the specification, as one of them has said.
    hash: Mutex<Option<String>>,
}

/// What a message to a hub offers: the number of the last change it includes, and the operations in order.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) number: u64,
    pub(super) offers: Vec<Arc<Offer>>,
}

/// A hub's answer to a registration.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) output: RegisterOutput,
    /// The number of the last change of the offers that it includes.
    pub(super) number: u64,
}

/// A change that the hubs may refuse.
#[derive(Debug)]
pub(super) struct Change {
    /// What is new to them.
    pub(super) added: Sent,
    pub(super) removed: Vec<OperationName>,
    before: Offered,
}

// === impl Offers ===

impl Offers {
    pub(super) fn new(operations: Vec<NewOffer>) -> Self {
        let mut offered = Offered {
            number: 0,
            offers: Vec::new(),
            runs: HashMap::new(),
        };
        offered.add(operations);
        Self(RwLock::new(offered))
    }

    /// The handler of an operation.
    pub(super) fn run(&self, name: &OperationName) -> Option<Run> {
        self.0.read().runs.get(name).cloned()
    }

    /// The number of the last change.
    pub(super) fn number(&self) -> u64 {
        self.0.read().number
    }

    /// Whether hubs know any specification by its hash.
    pub(super) fn has_hashes(&self) -> bool {
        self.0.read().offers.iter().any(|offer| offer.hash.lock().is_some())
    }

    /// Everything, for a registration.
    pub(super) fn all(&self) -> Sent {
        let offered = self.0.read();
        Sent {
            number: offered.number,
            offers: offered.offers.clone(),
        }
    }

    /// Forgets hashes that hubs do not know.
    pub(super) fn forget(&self, unknown: &[String]) {
        let unknown: HashSet<&String> = unknown.iter().collect();
        for offer in &self.0.read().offers {
            offer.hash.lock().take_if(|hash| unknown.contains(hash));
        }
    }

    /// What would be offered after a change.
    pub(super) fn with(&self, added: &[NewOffer], removed: &[OperationName]) -> Vec<RawJson> {
        let out: HashSet<&OperationName> = removed.iter().chain(added.iter().map(|(name, ..)| name)).collect();
        let offered = self.0.read();
        let kept = offered.offers.iter().filter(|offer| !out.contains(&offer.name));
        let kept = kept.map(|offer| offer.spec.clone());
        kept.chain(added.iter().map(|(_, spec, _)| spec.clone())).collect()
    }

    /// Changes what is offered: new handlers are there from now on, and none is removed yet. `None` if there is nothing
    /// to tell the hubs.
    pub(super) fn change(&self, added: Vec<NewOffer>, mut removed: Vec<OperationName>) -> Option<Change> {
        let mut offered = self.0.write();
        let before = offered.clone();
        removed.retain(|name| before.offers.iter().any(|offer| offer.name == *name));
        offered.offers.retain(|offer| !removed.contains(&offer.name));
        let added = offered.add(added);
        if added.is_empty() && removed.is_empty() {
            return None;
        }
        offered.number += 1;
        Some(Change {
            added: Sent {
                number: offered.number,
                offers: added,
            },
            removed,
            before,
        })
    }

    /// Takes back a change, which must be the last one. Its handlers stay until no hub has it: some may have accepted
    /// it.
    pub(super) fn undo(&self, change: Change) {
        let mut offered = self.0.write();
        let Offered { offers, mut runs, .. } = change.before;
        for (name, run) in std::mem::take(&mut offered.runs) {
            runs.entry(name).or_insert(run);
        }
        *offered = Offered {
            number: offered.number + 1,
            offers,
            runs,
        };
    }

    /// Notes that no session is registered with an earlier change than this one, the last.
    pub(super) fn settled(&self, number: u64) {
        let mut offered = self.0.write();
        if offered.number == number {
            let Offered { offers, runs, .. } = &mut *offered;
            let names: HashSet<&OperationName> = offers.iter().map(|offer| &offer.name).collect();
            runs.retain(|name, _| names.contains(name));
        }
    }
}

// === impl Offered ===

impl Offered {
    /// Offers more operations. One of the same name is replaced, keeping what is known if the specification is the
    /// same; returns those that are new to the hubs.
    fn add(&mut self, operations: Vec<NewOffer>) -> Vec<Arc<Offer>> {
        let mut new = Vec::new();
        for (name, spec, run) in operations {
            self.runs.insert(name.clone(), run);
            let same = |offer: &Arc<Offer>| offer.name == name && offer.spec == spec;
            if self.offers.iter().any(same) {
                continue;
            }
            self.offers.retain(|offer| offer.name != name);
            let offer = Arc::new(Offer {
                name,
                spec,
                hash: Mutex::default(),
            });
            self.offers.push(Arc::clone(&offer));
            new.push(offer);
        }
        new
    }
}

// === impl Offer ===

impl Offer {
    /// Whether a hub's answer means this operation by the name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.as_str() == name
    }
}

// === impl Sent ===

impl Sent {
    /// The entries as messages have them: if `by_hash`, by hash where that is known.
    pub(super) fn entries(&self, by_hash: bool) -> Vec<RawJson> {
        let entry = |offer: &Arc<Offer>| {
            let hash = offer.hash.lock().clone().filter(|_| by_hash);
            let named = hash.and_then(|hash| RawJson::from_value(&hash).ok());
            named.unwrap_or_else(|| offer.spec.clone())
        };
        self.offers.iter().map(entry).collect()
    }

    /// Keeps the hashes from a hub's answer.
    pub(super) fn learn(&self, output: &RegisterOutput) {
        for (offer, result) in self.offers.iter().zip(&output.operations) {
            if let Some(hash) = &result.hash {
                *offer.hash.lock() = Some(hash.clone());
            }
        }
    }
}
