//! Byte budgets: how much its peers may make this process keep.
//!
//! Whatever is kept for longer than it takes to act on it (messages that have not ended, inputs of calls, what waits to
//! be written, registrations, subscriptions) is charged to the key of the peer for which it is kept. The charge is a
//! guard, [`Held`], which is stored next to what is kept and gives the bytes back when it is dropped. What a hub keeps
//! for no particular key, such as what another hub has not acknowledged, has a budget of the hub's own
//! ([`Budgets::own`]).
//!
//! Promises
//! - A key holds at most `budget.key-bytes`, all budgets together at most `budget.hub-bytes` and [`RESERVE`] for each. What
//!   must be kept in any case ([`Held::insist`]) is counted beyond that, and bounded by who keeps it.
//! - Nobody is refused because of others while it holds no more than [`RESERVE`].
//! - What is kept although nothing needs it ([`Held::spare`]) takes up no more than one part in [`SPARE`] of any of these.
//! - What is refused is counted, by what it was and whose budget was full, and the error names both.
//!
//! Never
//! - It waits for no room, and ends nothing to make some: what is refused is for its caller to end.
//! - It sees nothing of what is kept but its kind and its bytes.
//!
//! Uses `config` and `protocol`.

mod by_key;
mod kept;
mod metrics;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_config::BudgetConfig;
use prometheus::Registry;

pub use by_key::ByKey;
pub use kept::{Exhausted, Kept};
use metrics::{Metrics, signed};

/// Bytes of each key that are not taken from the common share: keys that use little do not notice those that use much.
pub const RESERVE: usize = 2 * 1024 * 1024;

/// What nothing needs may take up one part in this many of each budget, of its reserve and of the common share.
pub const SPARE: usize = 8;

/// How many keys that hold nothing are remembered.
const IDLE_KEYS: usize = 4_096;

/// What grows and shrinks all the time is charged in steps of this many bytes ...
const STEP: usize = 4 * 1024;

/// ... and given back when this many are no longer used.
const SLACK: usize = 64 * 1024;

/// The budgets of one hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budgets(Arc<Hub>);

/// The budget of one key on one hub, or one of the hub's own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Part>);

/// Bytes that are kept, given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    what: Kept,
    bytes: usize,
    /// How many of them nothing needs.
    spare: usize,
}

#[derive(Debug)]
struct Hub {
    hub_bytes: usize,
    key_bytes: usize,
    /// How much all budgets hold beyond [`RESERVE`].
    used: AtomicUsize,
    /// How much of what nothing needs they hold beyond the same part of that.
    spare: AtomicUsize,
    keys: ByKey<Part>,
    metrics: Metrics,
}

/// How much one budget holds.
#[derive(Debug)]
struct Part {
    hub: Arc<Hub>,
    limit: usize,
    used: AtomicUsize,
    /// How much of that nothing needs.
    spare: AtomicUsize,
}

/// A sum of one budget, and the one of all budgets that goes with it.
struct Sums<'a> {
    own: &'a AtomicUsize,
    limit: usize,
    /// What of the first does not count in the second.
    reserve: usize,
    all: &'a AtomicUsize,
    all_limit: usize,
}

// === impl Budgets ===

impl Budgets {
    /// The budgets of a hub, with nothing kept.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn new(config: &BudgetConfig, registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self(Arc::new(Hub {
            hub_bytes: config.hub_bytes,
            key_bytes: config.key_bytes,
            used: AtomicUsize::new(0),
            spare: AtomicUsize::new(0),
            keys: ByKey::new(IDLE_KEYS),
            metrics: Metrics::register(registry, config)?,
        })))
    }

    /// The budget of a key, by its id; the same one for as long as something is held.
    pub fn key(&self, id: &Arc<str>) -> Budget {
        Budget(self.0.keys.get(id, || self.part(self.0.key_bytes)))
    }

    /// A budget of the hub's own, a new one each time: only the common share bounds it.
    pub fn own(&self) -> Budget {
        Budget(Arc::new(self.part(usize::MAX)))
    }

    fn part(&self, limit: usize) -> Part {
        Part {
            hub: Arc::clone(&self.0),
            limit,
            used: AtomicUsize::new(0),
            spare: AtomicUsize::new(0),
        }
    }
}

// === impl Budget ===

impl Budget {
    /// Charges bytes that begin to be kept.
    ///
    /// # Errors
    /// They must not be kept.
    pub fn take(&self, what: Kept, bytes: usize) -> Result<Held, Exhausted> {
        let mut held = self.nothing(what);
        held.resize(bytes)?;
        Ok(held)
    }

    /// A guard to grow later.
    pub fn nothing(&self, what: Kept) -> Held {
        Held {
            budget: self.clone(),
            what,
            bytes: 0,
            spare: 0,
        }
    }

    /// Bytes that it holds now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

// === impl Part ===

impl Part {
    /// All that is held.
    fn used(&self) -> Sums<'_> {
        Sums {
            own: &self.used,
            limit: self.limit,
            reserve: RESERVE,
            all: &self.hub.used,
            all_limit: self.hub.hub_bytes,
        }
    }

    /// What of it nothing needs.
    fn spare(&self) -> Sums<'_> {
        Sums {
            own: &self.spare,
            limit: self.limit / SPARE,
            reserve: RESERVE / SPARE,
            all: &self.hub.spare,
            all_limit: self.hub.hub_bytes / SPARE,
        }
    }
}

// === impl Sums ===

impl Sums<'_> {
    fn add(&self, bytes: usize) -> Result<(), Exhausted> {
        let added = self.count(bytes);
        added.inspect_err(|_| self.give_back(bytes))
    }

    /// Counts more bytes, and says whether they may be kept.
    fn count(&self, bytes: usize) -> Result<(), Exhausted> {
        let before = self.own.fetch_add(bytes, Ordering::Relaxed);
        let shared = self.beyond(before + bytes) - self.beyond(before);
        let shared_before = self.all.fetch_add(shared, Ordering::Relaxed);
        if before + bytes > self.limit {
            Err(Exhausted::Key)
        } else if shared > 0 && shared_before + shared > self.all_limit {
            Err(Exhausted::Hub)
        } else {
            Ok(())
        }
    }

    fn give_back(&self, bytes: usize) {
        let before = self.own.fetch_sub(bytes, Ordering::Relaxed);
        let shared = self.beyond(before) - self.beyond(before - bytes);
        self.all.fetch_sub(shared, Ordering::Relaxed);
    }

    /// How much of a budget's bytes is taken from the common share.
    fn beyond(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.reserve)
    }
}

// === impl Held ===

impl Held {
    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds another number of bytes from now on.
    ///
    /// # Errors
    /// More must not be kept; it still holds what it held.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if bytes <= self.bytes {
            self.shrink(bytes);
            return Ok(());
        }
        let metrics = &self.budget.0.hub.metrics;
        let added = self.budget.0.used().add(bytes - self.bytes);
        added.inspect_err(|exhausted| metrics.refused(self.what, *exhausted))?;
        metrics.kept(self.what).add(signed(bytes - self.bytes));
        self.bytes = bytes;
        Ok(())
    }

    /// Keeps so many of its bytes although nothing needs them any more, until it holds less. All such bytes together
    /// take up no more than one part in [`SPARE`] of a budget, so that others are refused that much earlier at most.
    ///
    /// # Errors
    /// They must not be kept for this: the budget whose part is used up.
    pub fn spare(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let bytes = bytes.min(self.bytes);
        self.need_all();
        self.budget.0.spare().add(bytes)?;
        self.spare = bytes;
        Ok(())
    }

    /// None of its bytes are kept without need any more.
    fn need_all(&mut self) {
        let spare = std::mem::take(&mut self.spare);
        if spare > 0 {
            self.budget.0.spare().give_back(spare);
        }
    }

    /// Holds no more than `bytes` from now on.
    pub fn shrink(&mut self, bytes: usize) {
        let unused = self.bytes.saturating_sub(bytes);
        if unused > 0 {
            self.need_all();
            self.budget.0.used().give_back(unused);
            self.budget.0.hub.metrics.kept(self.what).sub(signed(unused));
            self.bytes = bytes;
        }
    }

    /// Holds at least `bytes` from now on, for amounts that change with each message: in steps, so that most changes
    /// cost nothing.
    ///
    /// # Errors
    /// More must not be kept; it still holds what it held.
    pub fn follow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if bytes > self.bytes {
            return self.resize(bytes.next_multiple_of(STEP));
        }
        self.ease(bytes);
        Ok(())
    }

    /// [`Held::follow`] for what is kept whether or not it may be, since nobody could do anything about its loss. The
    /// next request finds the budget accordingly fuller.
    pub fn insist(&mut self, bytes: usize) {
        if bytes <= self.bytes {
            return self.ease(bytes);
        }
        let whole = bytes.next_multiple_of(STEP);
        // It is kept whatever the answer.
        let _ = self.budget.0.used().count(whole - self.bytes);
        let metrics = &self.budget.0.hub.metrics;
        metrics.kept(self.what).add(signed(whole - self.bytes));
        self.bytes = whole;
    }

    /// [`Held::follow`] for what has become less.
    pub fn ease(&mut self, bytes: usize) {
        let unused = self.bytes.saturating_sub(bytes);
        if unused > SLACK || bytes == 0 {
            self.shrink(bytes.next_multiple_of(STEP));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests;
