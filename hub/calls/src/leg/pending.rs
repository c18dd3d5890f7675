//! The table of running calls, with their deadlines.
//!
//! Invariants
//! - An entry leaves by [`Pending::remove`] or by its deadline, and only once: whoever gets it ends the call.
//! - One task serves all deadlines; it sleeps while none is near.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::leg::wheel::{TICK, Wheel};

const SHARDS: usize = 8;

/// Ticks per hour: the sleep of an idle table.
const IDLE_TICKS: u64 = 180_000;

/// Something that ends by itself at a time that may be moved into the future.
pub(crate) trait Timed {
    /// When it has to be looked at; `None` means never.
    fn due(&self) -> Option<Instant>;
}

/// The running calls by their keys.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    shards: Vec<Mutex<Shard<T>>>,
    next_key: AtomicU64,
    len: AtomicUsize,
    base: Instant,
    /// The tick at which the task wakes by itself.
    wakes_at: AtomicU64,
    wake: Notify,
}

#[derive(Debug)]
struct Shard<T> {
    /// The keys are counted up, and nobody else chooses them: they need no defence against collisions.
    entries: FxHashMap<u64, Arc<T>>,
    wheel: Wheel,
}

// === impl Pending ===

impl<T: Timed> Pending<T> {
    pub(crate) fn new() -> Self {
        let shard = || Shard {
            entries: FxHashMap::default(),
            wheel: Wheel::new(),
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            next_key: AtomicU64::new(1),
            len: AtomicUsize::new(0),
            base: Instant::now(),
            wakes_at: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
        }
    }

    /// A key that no call has had.
    pub(crate) fn key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Adds a call; its deadline counts from now on.
    pub(crate) fn insert(&self, key: u64, entry: Arc<T>) {
        let due = entry.due();
        let mut shard = self.shard(key).lock();
        shard.entries.insert(key, entry);
        let looked_at = due.map(|due| shard.wheel.put(key, self.tick_of(due)));
        drop(shard);
        self.len.fetch_add(1, Ordering::AcqRel);
        if looked_at.is_some_and(|tick| tick < self.wakes_at.load(Ordering::Acquire)) {
            self.wake.notify_one();
        }
    }

    pub(crate) fn get(&self, key: u64) -> Option<Arc<T>> {
        self.shard(key).lock().entries.get(&key).cloned()
    }

    pub(crate) fn contains(&self, key: u64) -> bool {
        self.shard(key).lock().entries.contains_key(&key)
    }

    /// Takes a call out. If several try at once, only one gets it.
    pub(crate) fn remove(&self, key: u64) -> Option<Arc<T>> {
        let entry = self.shard(key).lock().entries.remove(&key)?;
        self.len.fetch_sub(1, Ordering::AcqRel);
        Some(entry)
    }

    /// The calls that fulfil a condition. It goes through all of them, so only for rare events. The condition is
    /// evaluated without a lock of this table, because it may take the call's own lock, under which others look up
    /// calls here.
    pub(crate) fn select(&self, wanted: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut selected = Vec::new();
        for shard in &self.shards {
            let entries: Vec<Arc<T>> = shard.lock().entries.values().cloned().collect();
            selected.extend(entries.into_iter().filter(|entry| wanted(entry)));
        }
        selected
    }

    /// Runs for ever: takes out what is due and hands it to `expired`. Dropping the future stops all deadlines.
    pub(crate) async fn watch(&self, expired: impl Fn(Arc<T>)) {
        loop {
            // Until the new time is stored, any insert wakes this task again.
            self.wakes_at.store(u64::MAX, Ordering::Release);
            let (due, next) = self.sweep();
            due.into_iter().for_each(&expired);
            let now = self.now_tick();
            let next = next.unwrap_or(now + IDLE_TICKS);
            self.wakes_at.store(next, Ordering::Release);
            let at = self.base + TICK * u32::try_from(next).unwrap_or(u32::MAX);
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn sweep(&self) -> (Vec<Arc<T>>, Option<u64>) {
        let (mut due, mut next, mut keys) = (Vec::new(), None, Vec::new());
        let (now, now_tick) = (Instant::now(), self.now_tick());
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.wheel.advance(now_tick, &mut keys);
            for key in keys.drain(..) {
                // If the call has ended, only its key is left.
                let Some(at) = shard.entries.get(&key).and_then(|entry| entry.due()) else {
                    continue;
                };
                if at <= now {
                    due.extend(shard.entries.remove(&key));
                } else {
                    shard.wheel.put(key, self.tick_of(at));
                }
            }
            next = [next, shard.wheel.next()].into_iter().flatten().min();
        }
        self.len.fetch_sub(due.len(), Ordering::AcqRel);
        (due, next)
    }

    fn shard(&self, key: u64) -> &Mutex<Shard<T>> {
        &self.shards[usize::try_from(key % SHARDS as u64).expect("less than the number of shards")]
    }

    /// The first tick that is not before `at`.
    fn tick_of(&self, at: Instant) -> u64 {
        ticks(at.saturating_duration_since(self.base) + TICK - Duration::from_nanos(1))
    }

    fn now_tick(&self) -> u64 {
        ticks(self.base.elapsed())
    }
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Until(Mutex<Option<Instant>>);

    impl Timed for Until {
        fn due(&self) -> Option<Instant> {
            *self.0.lock()
        }
    }

    fn until(after: Option<Duration>) -> Arc<Until> {
        Arc::new(Until(Mutex::new(after.map(|after| Instant::now() + after))))
    }

    /// Runs the watch for `time`; returns when each entry expired.
    async fn watch(pending: &Pending<Until>, time: Duration) -> Vec<Duration> {
        let (start, expired) = (Instant::now(), Mutex::new(Vec::new()));
        let watching = pending.watch(|_| expired.lock().push(start.elapsed()));
        let ended = tokio::time::timeout(time, watching).await;
        assert!(ended.is_err(), "the watch never ends");
        expired.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_may_look_calls_up() {
        let pending = Pending::new();
        pending.insert(7, until(None));

        assert_eq!(pending.select(|_| pending.contains(7)).len(), 1);
        assert_eq!(pending.select(|_| pending.contains(8)).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_deadline_fires_once_at_its_time() {
        let pending = Pending::new();
        for after in [1, 30, 3600] {
            pending.insert(pending.key(), until(Some(Duration::from_secs(after))));
        }

        let expired = watch(&pending, Duration::from_secs(4000)).await;

        assert_eq!(expired.len(), 3);
        for (at, wanted) in expired.iter().zip([1, 30, 3600]) {
            let late = at.saturating_sub(Duration::from_secs(wanted));
            assert!(
                *at >= Duration::from_secs(wanted) && late <= TICK * 2,
                "{at:?} for {wanted} s"
            );
        }
        assert_eq!(pending.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_fires_at_the_new_time() {
        let pending = Pending::new();
        let entry = until(Some(Duration::from_secs(1)));
        pending.insert(pending.key(), Arc::clone(&entry));
        *entry.0.lock() = Some(Instant::now() + Duration::from_secs(20));

        let expired = watch(&pending, Duration::from_secs(60)).await;

        assert_eq!(expired.len(), 1);
        assert!(expired[0] >= Duration::from_secs(20), "{expired:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn removed_calls_and_calls_without_deadline_do_not_fire() {
        let pending = Pending::new();
        let key = pending.key();
        pending.insert(key, until(Some(Duration::from_secs(1))));
        pending.insert(pending.key(), until(None));
        assert!(pending.remove(key).is_some());
        assert!(pending.remove(key).is_none());

        assert!(watch(&pending, Duration::from_secs(60)).await.is_empty());
        assert_eq!(pending.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_added_while_the_task_sleeps_wakes_it() {
        let pending = Arc::new(Pending::new());
        pending.insert(pending.key(), until(Some(Duration::from_secs(4))));
        let expired = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let watching = {
            let (pending, expired) = (Arc::clone(&pending), Arc::clone(&expired));
            async move { pending.watch(|_| expired.lock().push(start.elapsed())).await }
        };
        let adding = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            pending.insert(pending.key(), until(Some(Duration::from_secs(1))));
            tokio::time::sleep(Duration::from_secs(10)).await;
        };

        tokio::select! {
            () = watching => {}
            () = adding => {}
        }

        let seconds: Vec<u64> = expired.lock().iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [2, 4]);
    }
}
