//! What a `group_by` and its groups have in common.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::bounds::{GroupBounds, Unread};
use super::wakers::{Wakers, Woken};

/// How far driving got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driven {
    /// There may be more: who drives has what it wanted, or waits.
    Pending,
    /// The upstream has ended.
    Ended,
}

/// The state behind the lock.
pub(super) struct Shared<S, F, K, T, E> {
    upstream: Option<Pin<Box<S>>>,
    key: F,
    bounds: GroupBounds,
    /// The live group of each key.
    live: HashMap<K, u64>,
    slots: HashMap<u64, Slot<K, T>>,
    /// Live groups, the one that has been idle for longest first.
    idle: BTreeSet<(Instant, u64)>,
    /// Groups that have ended and still have items, the oldest first.
    ended: VecDeque<u64>,
    /// What the flow of groups gives next.
    pub(super) fresh: VecDeque<Result<(K, u64), E>>,
    /// An item that has no room.
    held: Option<(K, T)>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Keys of groups whose readers are gone: a reader that leaves cannot look keys up.
    gone: Vec<(K, u64)>,
    wakers: Arc<Wakers>,
    has_news: bool,
    next: u64,
}

struct Slot<K, T> {
    key: K,
    items: VecDeque<T>,
    missed: u64,
    used: Instant,
    is_live: bool,
}

// === impl Shared ===

impl<S, F, K, T, E> Shared<S, F, K, T, E> {
    pub(super) fn new(upstream: S, mut bounds: GroupBounds, key: F) -> Self {
        bounds.groups = bounds.groups.max(1);
        bounds.buffer = bounds.buffer.max(1);
        Self {
            upstream: Some(Box::pin(upstream)),
            key,
            bounds,
            live: HashMap::new(),
            slots: HashMap::new(),
            idle: BTreeSet::new(),
            ended: VecDeque::new(),
            fresh: VecDeque::new(),
            held: None,
            timer: None,
            gone: Vec::new(),
            wakers: Arc::default(),
            has_news: false,
            next: 0,
        }
    }

    /// Ends everything, and hands the upstream out to be dropped without the lock.
    pub(super) fn close(&mut self) -> Option<Pin<Box<S>>> {
        (self.held, self.timer, self.has_news) = (None, None, true);
        // Groups that nobody got go with their items.
        for (_, id) in std::mem::take(&mut self.fresh).into_iter().flatten() {
            self.slots.remove(&id);
        }
        for slot in self.slots.values_mut() {
            slot.is_live = false;
        }
        self.live.clear();
        self.idle.clear();
        self.upstream.take()
    }

    /// The wakers of those for whom there is news.
    pub(super) fn woken(&mut self) -> Woken {
        Woken(std::mem::take(&mut self.has_news).then(|| Arc::clone(&self.wakers)))
    }

    /// Whether a group has nothing to give yet.
    pub(super) fn waits(&self, id: u64) -> bool {
        self.slots
            .get(&id)
            .is_some_and(|slot| slot.is_live && slot.items.is_empty())
    }

    /// The next item of a group, whether it has ended, and how many it missed.
    pub(super) fn take(&mut self, id: u64) -> (Option<T>, bool, u64) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return (None, true, 0);
        };
        let (item, missed) = (slot.items.pop_front(), slot.missed);
        let has_ended = !slot.is_live && slot.items.is_empty();
        // Room for an item that is held.
        self.has_news |= item.is_some() && self.held.is_some();
        if has_ended {
            self.ended.retain(|other| *other != id);
            if item.is_none() {
                self.slots.remove(&id);
            }
        }
        (item, has_ended, missed)
    }

    /// Ends a group whose reader is gone. What it had is handed out, to be dropped without the lock.
    pub(super) fn leave(&mut self, id: u64) -> VecDeque<T> {
        let Some(slot) = self.slots.remove(&id) else {
            return VecDeque::new();
        };
        self.idle.remove(&(slot.used, id));
        self.ended.retain(|other| *other != id);
        self.has_news |= self.held.is_some();
        if slot.is_live {
            self.gone.push((slot.key, id));
        }
        slot.items
    }
}

impl<S, F, K, T, E> Shared<S, F, K, T, E>
where
    S: Stream<Item = Result<T, E>>,
    F: FnMut(&T) -> K,
    K: Hash + Eq + Clone,
{
    /// Polls the upstream until who drives `has` what it wants, or nothing more can be done now.
    pub(super) fn drive(&mut self, context: &mut Context<'_>, has: impl Fn(&Self) -> bool) -> Driven {
        for (key, id) in std::mem::take(&mut self.gone) {
            if self.live.get(&key) == Some(&id) {
                self.live.remove(&key);
            }
        }
        self.wakers.add(context.waker());
        let waker = Waker::from(Arc::clone(&self.wakers));
        let mut context = Context::from_waker(&waker);
        loop {
            self.end_idle(&mut context);
            if has(self) {
                return Driven::Pending;
            }
            let Some(upstream) = &mut self.upstream else {
                return Driven::Ended;
            };
            // Who does not take new groups holds up everything.
            if self.fresh.len() >= self.bounds.groups {
                return Driven::Pending;
            }
            if let Some((key, item)) = self.held.take() {
                self.held = self.place(key, item);
                if self.held.is_some() {
                    return Driven::Pending;
                }
                continue;
            }
            match upstream.as_mut().poll_next(&mut context) {
                Poll::Ready(Some(Ok(item))) => {
                    let key = (self.key)(&item);
                    self.held = self.place(key, item);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.fresh.push_back(Err(error));
                    self.has_news = true;
                }
                Poll::Ready(None) => {
                    self.upstream = None;
                    self.timer = None;
                    while let Some((_, id)) = self.idle.first().copied() {
                        self.end(id);
                    }
                    self.has_news = true;
                }
                Poll::Pending => return Driven::Pending,
            }
        }
    }

    /// Ends groups that have been idle for long enough, and sees to it that somebody is woken for the next one.
    fn end_idle(&mut self, context: &mut Context<'_>) {
        loop {
            let Some((used, id)) = self.idle.first().copied() else {
                self.timer = None;
                return;
            };
            let Some(until) = used.checked_add(self.bounds.idle) else {
                return;
            };
            if until <= Instant::now() {
                self.end(id);
                continue;
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            if timer.as_mut().poll(context).is_pending() {
                return;
            }
        }
    }

    fn end(&mut self, id: u64) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.is_live = false;
        self.idle.remove(&(slot.used, id));
        if self.live.get(&slot.key) == Some(&id) {
            self.live.remove(&slot.key);
        }
        if !slot.items.is_empty() {
            self.ended.push_back(id);
        }
        self.has_news = true;
    }

    /// Puts an item into its group; gives it back if it must wait.
    fn place(&mut self, key: K, item: T) -> Option<(K, T)> {
        let id = match self.live.get(&key).copied() {
            Some(id) => id,
            None => {
                if !self.has_room_for_a_group() {
                    return Some((key, item));
                }
                self.begin(&key)
            }
        };
        let slot = self.slots.get_mut(&id).expect("it is live or was just begun");
        if slot.items.len() >= self.bounds.buffer {
            match self.bounds.unread {
                Unread::Wait => return Some((key, item)),
                Unread::DropOldest => {
                    slot.items.pop_front();
                    slot.missed += 1;
                }
            }
        }
        let now = Instant::now();
        self.idle.remove(&(slot.used, id));
        self.idle.insert((now, id));
        slot.used = now;
        slot.items.push_back(item);
        self.has_news = true;
        None
    }

    /// Makes room for one more group.
    fn has_room_for_a_group(&mut self) -> bool {
        while self.idle.len() >= self.bounds.groups {
            // Of those that ended, no more are kept than may be live.
            if self.ended.len() >= self.bounds.groups {
                match (self.bounds.unread, self.ended.pop_front()) {
                    (Unread::Wait, Some(id)) => {
                        self.ended.push_front(id);
                        return false;
                    }
                    (_, Some(id)) => {
                        if let Some(slot) = self.slots.get_mut(&id) {
                            slot.missed += slot.items.len() as u64;
                            slot.items.clear();
                        }
                    }
                    (_, None) => {}
                }
            }
            if let Some((_, id)) = self.idle.first().copied() {
                self.end(id);
            }
        }
        true
    }

    fn begin(&mut self, key: &K) -> u64 {
        let id = self.next;
        self.next += 1;
        let now = Instant::now();
        let slot = Slot {
            key: key.clone(),
            items: VecDeque::new(),
            missed: 0,
            used: now,
            is_live: true,
        };
        self.slots.insert(id, slot);
        self.live.insert(key.clone(), id);
        self.idle.insert((now, id));
        self.fresh.push_back(Ok((key.clone(), id)));
        id
    }
}

impl<S, F, K, T, E> fmt::Debug for Shared<S, F, K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (groups, ended) = (self.idle.len(), self.ended.len());
        f.debug_struct("Shared")
            .field("groups", &groups)
            .field("ended", &ended)
            .finish_non_exhaustive()
    }
}
