//! Everything that is open for longer than one answer, whatever its surface: the one place that revocation, narrowing,
//! balance and drain ask.
//!
//! An entry knows the key that opened it and has a handle through which it is looked at again, drained and ended
//! ([`Closeable`]). What that means to its peer is up to the surface. Connections that are not upgraded have no key and
//! end by themselves when the hub drains: they are only counted ([`Open::connect`]).
//!
//! Invariants
//! - Whatever is opened is entered before its key is looked at for the last time, so a key that ends in between ends
//!   it.
//! - An entry is removed with its [`Entered`], together with what it counts against.
//! - How much is open is counted here, and metrics follow: no decision is based on a gauge.
//! - On account of its key, an entry is closed once. What is entered while the hub drains or ends is drained or closed
//!   at once.
//! - No handle is called while the list is locked, except for [`Closeable::tick`], [`Closeable::is_moving`] and
//!   [`Closeable::is_midway`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alkhub_calls::Caller;
use jiff::Timestamp;
use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use crate::key::{Key, KeyFault, Review};
use crate::limits::Slot;
use crate::metrics::{ConnectionKind, Counted, EdgeMetrics};

/// How long a peer that was asked to move ([`Closeable::ask_to_move`]) has before a draining hub closes it; less if the
/// hub itself has less time.
pub const MOVING: Duration = Duration::from_secs(10);

/// Why a hub that drains closes what is open.
pub const DRAINING: &str = "the hub is going away: connect again";

/// Everything that is open on one hub. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Open(Arc<Mutex<List>>);

/// How something open is reached from outside. Each method returns at once and may be called again; the task that has
/// it open carries out what is asked.
pub trait Closeable: fmt::Debug + Send + Sync {
    /// The key has other rights now: whatever it no longer allows must end.
    fn recheck(&self, caller: &Arc<Caller>);

    /// The hub drains: end as soon as nothing is under way that a peer waits for.
    fn drain(&self);

    /// End, with the reason for the peer.
    fn close(&self, why: Closing);

    /// End without another word to the peer.
    fn kill(&self);

    /// Asks the peer to move its session to a connection to another hub; to the one at the URL `target`, if that is
    /// given and the peer can dial it. False if the peer is of a kind that cannot move (then [`Closeable::drain`] or
    /// [`Closeable::close`] is what remains).
    ///
    /// True promises only that the peer is told, soon and once however often it is asked. Until it has moved,
    /// everything goes on where it is, and a peer that does not move, or comes back here, is left as it was. Whatever
    /// it has under way moves with it. Nothing ends by this, so even a busy peer may be asked.
    fn ask_to_move(&self, target: Option<&str>) -> bool {
        let _ = target;
        false
    }

    /// Whether its peer could be asked to move, and has never been.
    fn is_unasked(&self) -> bool {
        false
    }

    /// What is known of it as something that could go to another hub; `None` if it cannot, or is about to end.
    fn leaver(&self) -> Option<Leaver> {
        None
    }

    /// Another hub should have it, and it cannot migrate: end as soon as nothing is under way that a peer waits for,
    /// and begin nothing that others can do. It may stay if that does not happen soon.
    fn let_go(&self) {}

    /// The hub gives its connections away no more: take [`Closeable::let_go`] back, unless the end is decided.
    fn let_stay(&self) {}

    /// Whether its peer was asked to move and has not done so yet.
    fn is_moving(&self) -> bool {
        false
    }

    /// Whether a message of its peer has begun and not ended, or something waits to be written to it: cutting it would
    /// lose that.
    fn is_midway(&self) -> bool {
        false
    }

    /// The number of hubs that take connections has changed: tell the peer, if it wants to know.
    fn hubs_changed(&self) {}

    /// The beat of its kind ([`Open::tick`]); `place` spreads over many beats what need not be done at each one. The
    /// list is locked: nothing may be entered or removed here.
    fn tick(&self, place: usize) {
        let _ = place;
    }
}

/// Something open that could go to another hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaver {
    /// Whether its peer can move its session ([`Closeable::ask_to_move`]); if not, it is let go.
    pub migrates: bool,
    /// Calls that it runs or waits for.
    pub in_flight: u32,
    /// When it was opened, measured from a moment that is the same for all of its kind.
    pub since: Duration,
    /// When its peer came here with its session from another hub, at that hub's request.
    pub moved: Option<Instant>,
    /// The session that it serves, as the hub knows it.
    pub session: Arc<str>,
}

/// Why something open ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Its key is no longer good.
    Key(KeyFault),
    /// The hub is going away ([`DRAINING`]).
    Drain,
}

/// Something open, for as long as this value lives.
#[derive(Debug)]
pub struct Entered {
    open: Open,
    place: usize,
    _counted: (Slot, Counted),
}

/// A connection that is not upgraded, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    open: Open,
    counted: Counted,
}

#[derive(Debug, Default)]
struct List {
    entries: Slab<Entry>,
    counts: Counts,
    stage: Stage,
}

/// How many are open of each kind.
#[derive(Debug, Default)]
struct Counts {
    http: usize,
    websocket: usize,
    sse: usize,
    reconnecting: usize,
    left: usize,
}

#[derive(Debug)]
struct Entry {
    kind: ConnectionKind,
    key: Arc<Key>,
    /// The rights of the key when it was last looked at.
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
    /// Enters something that `key` has opened; its place among the key's connections and the count of its kind are held
    /// for as long as it is open. Afterwards the caller must check whether the key is still good
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
            *list.counts.of(entry.kind) += 1;
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

    /// Counts a connection that is not upgraded.
    pub(crate) fn connect(&self, metrics: &EdgeMetrics) -> OpenConnection {
        let counted = metrics.open(ConnectionKind::Http);
        *self.0.lock().counts.of(counted.kind()) += 1;
        OpenConnection {
            open: self.clone(),
            counted,
        }
    }

    /// How many of a kind are open.
    pub fn count(&self, kind: ConnectionKind) -> usize {
        *self.0.lock().counts.of(kind)
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

    /// Looks at every key again: closes what was opened with a key that is no longer good, and makes what was opened
    /// with a key whose rights have changed check itself.
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

    /// How many were asked to move and have not done so yet.
    pub fn moving(&self) -> usize {
        self.count_that(|handle| handle.is_moving())
    }

    /// How many have a message that has begun and not ended, in either direction.
    pub fn midway(&self) -> usize {
        self.count_that(|handle| handle.is_midway())
    }

    fn count_that(&self, holds: impl Fn(&dyn Closeable) -> bool) -> usize {
        let list = self.0.lock();
        let handles = list.entries.iter().map(|(_, entry)| &*entry.handle);
        handles.filter(|handle| holds(*handle)).count()
    }

    /// Drains what is open, and what is entered from now on. Repeating it makes all of them check themselves again.
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

    /// Ends what is open, and what is entered from now on, without another word to the peers.
    pub fn kill(&self) {
        for handle in self.reach(Stage::Killing) {
            handle.kill();
        }
    }

    /// What is open of a kind.
    pub fn of(&self, kind: ConnectionKind) -> Vec<Arc<dyn Closeable>> {
        let list = self.0.lock();
        let of_kind = list.entries.iter().filter(|(_, entry)| entry.kind == kind);
        of_kind.map(|(_, entry)| entry.handle.clone()).collect()
    }

    /// One beat for everything of a kind.
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

// === impl Counts ===

impl Counts {
    fn of(&mut self, kind: ConnectionKind) -> &mut usize {
        match kind {
            ConnectionKind::Http => &mut self.http,
            ConnectionKind::Websocket => &mut self.websocket,
            ConnectionKind::Sse => &mut self.sse,
            ConnectionKind::Reconnecting => &mut self.reconnecting,
            ConnectionKind::Left => &mut self.left,
        }
    }
}

// === impl OpenConnection, Entered ===

impl Drop for OpenConnection {
    fn drop(&mut self) {
        *self.open.0.lock().counts.of(self.counted.kind()) -= 1;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let entry = {
            let mut list = self.open.0.lock();
            let entry = list.entries.remove(self.place);
            *list.counts.of(entry.kind) -= 1;
            entry
        };
        // Whatever hangs on the handle is dropped without the lock.
        drop(entry);
    }
}

#[cfg(test)]
mod tests;
