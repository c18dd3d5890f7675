//! Everything that is open for longer than one answer, whatever surface it is of: the one place that revocation,
//! narrowing and drain ask.
//!
//! An entry knows the key that opened it and has a handle by which it is looked at again, drained and ended
//! ([`Closeable`]). What that means to its peer is the surface's.
//!
//! Invariants
//! - What is open is entered before its key is looked at for the last time: a key that ends in between ends it.
//! - An entry leaves with its [`Entered`], and with it what it counts against.
//! - For its key an entry is closed once. What enters while the hub drains or ends is drained or closed at once.
//! - No handle is called while the list is locked, but for [`Closeable::tick`].

use std::fmt;
use std::sync::Arc;

use alkhub_calls::Caller;
use jiff::Timestamp;
use parking_lot::Mutex;
use slab::Slab;

use crate::key::{Key, KeyFault, Review};
use crate::limits::Slot;
use crate::metrics::{ConnectionKind, Counted};

/// Why a hub that drains closes what is open.
pub const DRAINING: &str = "the hub is going away: connect again";

/// Everything that is open on one hub. Clones are of one list.
#[derive(Clone, Debug, Default)]
pub struct Open(Arc<Mutex<List>>);

/// How something open is reached from outside. Each method returns at once and may be called again; what it asks for is
/// done by the task that has it open.
pub trait Closeable: fmt::Debug + Send + Sync {
    /// The key allows something else now: what it does not allow any more must end.
    fn recheck(&self, caller: &Arc<Caller>);

    /// The hub drains: end as soon as nothing is under way that a peer waits for.
    fn drain(&self);

    /// End, with the reason for the peer.
    fn close(&self, why: Closing);

    /// End without another word.
    fn kill(&self);

    /// The beat of its kind ([`Open::tick`]); `place` spreads over many beats what need not be done at each. The list is
    /// locked: nothing may enter or leave here.
    fn tick(&self, place: usize) {
        let _ = place;
    }
}

/// Why something open ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Its key is no longer good.
    Key(KeyFault),
    /// The hub goes away ([`DRAINING`]).
    Drain,
}

/// Something open, for as long as this lives.
#[derive(Debug)]
pub struct Entered {
    open: Open,
    place: usize,
    _counted: (Slot, Counted),
}

#[derive(Debug, Default)]
struct List {
    entries: Slab<Entry>,
    stage: Stage,
}

#[derive(Debug)]
struct Entry {
    kind: ConnectionKind,
    key: Arc<Key>,
    /// What the key allowed when it was last looked at.
    allowed: Arc<Caller>,
    handle: Arc<dyn Closeable>,
    closed: bool,
}

/// How far the end of the hub has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Serving,
    Draining,
    Closing,
    Killing,
}

// === impl Open ===

impl Open {
    /// Enters something that `key` has opened; the place among the key's connections and the count of its kind are kept
    /// for as long as it is open. Whether the key is still good is for the caller to look at, after this
    /// ([`crate::auth::KeyRing::look_again`]).
    pub fn enter(&self, key: Arc<Key>, handle: Arc<dyn Closeable>, counted: (Slot, Counted)) -> Entered {
        let entered = handle.clone();
        let entry = Entry {
            kind: counted.1.kind(),
            allowed: key.caller(),
            key,
            handle,
            closed: false,
        };
        let (place, stage) = {
            let mut list = self.0.lock();
            (list.entries.insert(entry), list.stage)
        };
        if stage >= Stage::Draining {
            entered.drain();
        }
        if stage >= Stage::Closing {
            entered.close(Closing::Drain);
        }
        if stage >= Stage::Killing {
            entered.kill();
        }
        Entered {
            open: self.clone(),
            place,
            _counted: counted,
        }
    }

    /// How many of a kind are open.
    pub fn count(&self, kind: ConnectionKind) -> usize {
        let list = self.0.lock();
        list.entries.iter().filter(|(_, entry)| entry.kind == kind).count()
    }

    /// The keys of what is open, each once.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<Arc<Key>> = {
            let list = self.0.lock();
            list.entries.iter().map(|(_, entry)| entry.key.clone()).collect()
        };
        keys.sort_by_key(Arc::as_ptr);
        keys.dedup_by(|a, b| Arc::ptr_eq(a, b));
        keys
    }

    /// Looks at every key again: closes what was opened with one that is no longer good, and has what was opened with one
    /// that allows something else now look at itself.
    pub fn review(&self) {
        let now = Timestamp::now();
        let (mut closed, mut changed) = (Vec::new(), Vec::new());
        for (_, entry) in &mut self.0.lock().entries {
            match entry.key.review(now, &entry.allowed) {
                Review::Same => {}
                Review::Changed(caller) => {
                    entry.allowed = caller.clone();
                    changed.push((entry.handle.clone(), caller));
                }
                Review::Fault(fault) => {
                    if !std::mem::replace(&mut entry.closed, true) {
                        closed.push((entry.handle.clone(), fault));
                    }
                }
            }
        }
        for (handle, fault) in closed {
            handle.close(Closing::Key(fault));
        }
        for (handle, caller) in changed {
            handle.recheck(&caller);
        }
    }

    /// Drains what is open, and what is entered from now on.
    pub fn drain(&self) {
        for handle in self.reach(Stage::Draining) {
            handle.drain();
        }
    }

    /// Closes what is open, and what is entered from now on.
    pub fn close(&self) {
        for handle in self.reach(Stage::Closing) {
            handle.close(Closing::Drain);
        }
    }

    /// Ends what is open, and what is entered from now on, without another word.
    pub fn kill(&self) {
        for handle in self.reach(Stage::Killing) {
            handle.kill();
        }
    }

    /// One beat for all of a kind.
    pub fn tick(&self, kind: ConnectionKind) {
        for (place, entry) in &self.0.lock().entries {
            if entry.kind == kind {
                entry.handle.tick(place);
            }
        }
    }

    fn reach(&self, stage: Stage) -> Vec<Arc<dyn Closeable>> {
        let mut list = self.0.lock();
        list.stage = list.stage.max(stage);
        list.entries.iter().map(|(_, entry)| entry.handle.clone()).collect()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let entry = self.open.0.lock().entries.try_remove(self.place);
        // What hangs on the handle goes without the lock.
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use alkhub_store::KeyHash;
    use prometheus::Registry;

    use super::*;
    use crate::key::record;
    use crate::metrics::EdgeMetrics;

    /// Notes what it is asked for.
    #[derive(Debug, Default)]
    struct Asked(Mutex<Vec<String>>);

    impl Asked {
        fn note(&self, what: &str) {
            self.0.lock().push(what.to_owned());
        }

        fn taken(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock())
        }
    }

    impl Closeable for Asked {
        fn recheck(&self, _: &Arc<Caller>) {
            self.note("recheck");
        }

        fn drain(&self) {
            self.note("drain");
        }

        fn close(&self, why: Closing) {
            self.note(&format!("close {why:?}"));
        }

        fn kill(&self) {
            self.note("kill");
        }
    }

    fn key() -> Arc<Key> {
        Arc::new(Key::new(KeyHash([0; 32]), &record()))
    }

    fn enter(open: &Open, key: &Arc<Key>) -> (Arc<Asked>, Entered) {
        let metrics = EdgeMetrics::new(&Registry::new()).expect("new names");
        let slot = key.connections.take(10).expect("free");
        let asked = Arc::new(Asked::default());
        let counted = (slot, metrics.open(ConnectionKind::Sse));
        let entered = open.enter(key.clone(), asked.clone(), counted);
        (asked, entered)
    }

    #[test]
    fn what_a_key_has_open_is_closed_once_when_the_key_ends() {
        let (open, key, other) = (Open::default(), key(), key());
        let (asked, entered) = enter(&open, &key);
        let (bystander, _stays) = enter(&open, &other);
        open.review();

        key.revoke();
        open.review();
        open.review();

        assert_eq!(asked.taken(), ["close Key(Revoked)"]);
        assert!(bystander.taken().is_empty());
        drop(entered);
        assert_eq!(open.count(ConnectionKind::Sse), 1);
        assert_eq!(open.keys().len(), 1);
        assert!(key.connections.take(1).is_some());
    }

    #[test]
    fn what_a_key_has_open_is_looked_at_once_for_each_change_of_what_the_key_allows() {
        let (open, key) = (Open::default(), key());
        let (asked, _entered) = enter(&open, &key);
        let mut wider = record();
        wider.scopes = alkhub_protocol::Scopes::new(["events:subscribe:a"]);

        key.update(&record(), || false);
        open.review();
        assert!(asked.taken().is_empty(), "nothing has changed");
        key.update(&wider, || false);
        open.review();
        open.review();

        assert_eq!(asked.taken(), ["recheck"]);
    }

    #[test]
    fn what_enters_while_the_hub_ends_is_told_how_far_the_end_has_come() {
        let (open, key) = (Open::default(), key());
        let (early, _early) = enter(&open, &key);
        open.drain();
        let (draining, _draining) = enter(&open, &key);
        open.close();
        open.kill();
        let (late, _late) = enter(&open, &key);

        let all = ["drain", "close Drain", "kill"];
        assert_eq!(early.taken(), all);
        assert_eq!(draining.taken(), all);
        assert_eq!(late.taken(), all);
    }
}
