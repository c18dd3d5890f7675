//! Values built from specifications, kept by their hash within a capacity in bytes.
//!
//! Invariants
//! - What is kept stays within the capacity, both of the whole cache and of each spoke. An entry is charged to the
//!   spoke that first brought it, until it is dropped.
//! - Entries that nobody uses are dropped first; one in use is never dropped. Whatever still does not fit is refused,
//!   if possible before it is built, and the refusal is remembered for a while.
//! - Nothing is built on a thread that serves connections, and at most one light and one heavy value are built at a
//!   time. For each of the two, keys take turns ([`FairLock`]): nobody waits for more than one build of each other key,
//!   and light values never wait for a heavy one.

mod refused;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use alkhub_protocol::SpokeName;
use parking_lot::Mutex;
use prometheus::Registry;

use crate::fair::FairLock;
use crate::metrics::Metrics;
use refused::{Refusal, Refused};

/// The most bytes that a light value takes: a thirtieth of what one spoke may have by default.
const LIGHT_BYTES: usize = 1024 * 1024;

/// How much may be kept, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// In all.
    pub total: usize,
    /// For one spoke.
    pub per_spoke: usize,
}

/// Built values of type `T` by the hash `K` of what they are built from.
#[derive(Debug)]
pub struct Cache<K, T> {
    kept: Mutex<Kept<K, T>>,
    capacity: Capacity,
    light: Arc<FairLock>,
    heavy: Arc<FairLock>,
    refused: Mutex<Refused<K>>,
    metrics: Metrics,
}

/// A value, and the most memory that it may take.
#[derive(Debug)]
pub struct Built<T> {
    /// The value.
    pub value: T,
    /// What it takes, in bytes.
    pub bytes: usize,
}

/// Why a value was not built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unbuilt {
    /// It would take at least `bytes`, which is over the limit.
    Over {
        /// The least that it would take.
        bytes: usize,
    },
    /// It cannot be built, whatever the limit.
    Fault(String),
}

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be built.
    #[error("{0}")]
    Fault(Arc<str>),
    /// It takes `bytes` or more, and its spoke has not enough room.
    #[error("it takes {bytes} bytes or more, and its spoke may have {limit}")]
    SpokeFull {
        /// The least that it takes.
        bytes: usize,
        /// [`Capacity::per_spoke`].
        limit: usize,
    },
    /// It takes `bytes` or more, and the cache has not enough room.
    #[error("it takes {bytes} bytes or more, and all may take {limit}")]
    Full {
        /// The least that it takes.
        bytes: usize,
        /// [`Capacity::total`].
        limit: usize,
    },
    /// The build panicked.
    #[error("the build failed")]
    Failed(#[from] tokio::task::JoinError),
}

/// What is asked for, and by whom.
#[derive(Clone, Copy)]
struct Request<'a, K> {
    spoke: &'a SpokeName,
    key: &'a Arc<str>,
    hash: K,
}

#[derive(Debug)]
struct Entry<T> {
    spoke: SpokeName,
    bytes: usize,
    value: Arc<T>,
}

#[derive(Debug)]
struct Kept<K, T> {
    by_hash: HashMap<K, Entry<T>>,
    bytes: usize,
    by_spoke: HashMap<SpokeName, usize>,
}

// === impl Cache ===

impl<K, T> Cache<K, T>
where
    K: Copy + Eq + Hash,
    T: Send + Sync + 'static,
{
    /// An empty cache.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn new(capacity: Capacity, registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            kept: Mutex::default(),
            capacity,
            light: Arc::default(),
            heavy: Arc::default(),
            refused: Mutex::default(),
            metrics: Metrics::register(registry)?,
        })
    }

    /// The value of a hash, if it is kept.
    pub fn get(&self, hash: &K) -> Option<Arc<T>> {
        let kept = self.kept.lock();
        kept.by_hash.get(hash).map(|entry| Arc::clone(&entry.value))
    }

    /// The spoke that a value is charged to.
    pub fn owner(&self, hash: &K) -> Option<SpokeName> {
        let kept = self.kept.lock();
        kept.by_hash.get(hash).map(|entry| entry.spoke.clone())
    }

    /// The value of a hash, which a spoke brought with a key; built unless it is kept. `build` is called with the
    /// number of bytes that the value may take, on a thread of its own, at most twice. If the future is dropped,
    /// nothing is kept; a build that has begun still runs to its end, in its turn, and its value is dropped.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get_or_build<F>(&self, spoke: &SpokeName, key: &Arc<str>, hash: K, build: F) -> Result<Arc<T>, Error>
    where
        F: Fn(usize) -> Result<Built<T>, Unbuilt> + Clone + Send + 'static,
    {
        if let Some(known) = self.get(&hash) {
            return Ok(known);
        }
        self.refused_before(spoke, &hash)?;
        let request = Request { spoke, key, hash };
        let light = self
            .build_within(&self.light, request, LIGHT_BYTES, build.clone())
            .await?;
        if let Some(value) = light {
            return Ok(value);
        }
        let heavy = self.build_within(&self.heavy, request, usize::MAX, build).await?;
        Ok(heavy.expect("nothing takes more than a usize counts"))
    }

    /// Builds a value in a turn; `None` if it takes more bytes than `most`.
    async fn build_within<F>(
        &self,
        turns: &Arc<FairLock>,
        Request { spoke, key, hash }: Request<'_, K>,
        most: usize,
        build: F,
    ) -> Result<Option<Arc<T>>, Error>
    where
        F: Fn(usize) -> Result<Built<T>, Unbuilt> + Send + 'static,
    {
        let turn = turns.turn(key).await;
        if let Some(known) = self.get(&hash) {
            return Ok(Some(known));
        }
        self.refused_before(spoke, &hash)?;
        let room = self.room(spoke);
        let build = move || {
            let built = build(room.min(most));
            // Not earlier: a request that was given up during its build holds its turn until then.
            drop(turn);
            built
        };
        match tokio::task::spawn_blocking(build).await? {
            Ok(built) => self.keep(spoke, hash, built).map(Some),
            Err(Unbuilt::Over { bytes }) if bytes <= room && most < room => Ok(None),
            Err(Unbuilt::Over { bytes }) => {
                self.refused.lock().add(hash, Refusal::Bytes(bytes));
                Err(self.refuse(spoke, bytes))
            }
            Err(Unbuilt::Fault(fault)) => {
                let refusal = Refusal::fault(&fault);
                self.refused.lock().add(hash, Refusal::Fault(Arc::clone(&refusal)));
                Err(Error::Fault(refusal))
            }
        }
    }

    /// Refuses again what was refused before, unless there is room for it now.
    fn refused_before(&self, spoke: &SpokeName, hash: &K) -> Result<(), Error> {
        let refusal = self.refused.lock().get(hash);
        match refusal {
            None => Ok(()),
            Some(Refusal::Fault(fault)) => Err(Error::Fault(fault)),
            Some(Refusal::Bytes(bytes)) if bytes > self.room(spoke) => Err(self.refuse(spoke, bytes)),
            Some(Refusal::Bytes(_)) => Ok(()),
        }
    }

    /// How many bytes a spoke's next value may take, once everything unused is dropped.
    fn room(&self, spoke: &SpokeName) -> usize {
        let (own, all) = self.kept.lock().used(spoke);
        let own = self.capacity.per_spoke.saturating_sub(own);
        own.min(self.capacity.total.saturating_sub(all))
    }

    /// Refuses a value of this size, after dropping everything unused.
    fn refuse(&self, spoke: &SpokeName, bytes: usize) -> Error {
        let mut kept = self.kept.lock();
        self.make_room(&mut kept, spoke, bytes);
        self.metrics.refused.inc();
        self.report(&kept);
        let Capacity { total, per_spoke } = self.capacity;
        if kept.of(spoke) + bytes > per_spoke {
            return Error::SpokeFull {
                bytes,
                limit: per_spoke,
            };
        }
        Error::Full { bytes, limit: total }
    }

    /// Drops unused values if more room is needed.
    fn make_room(&self, kept: &mut Kept<K, T>, spoke: &SpokeName, bytes: usize) {
        if kept.of(spoke) + bytes > self.capacity.per_spoke {
            kept.drop_unused(|owner| owner == spoke);
        }
        if kept.bytes + bytes > self.capacity.total {
            kept.drop_unused(|_| true);
        }
    }

    /// Keeps a built value, if it fits; returns the one that is kept already, if there is one.
    ///
    /// # Errors
    /// [`Error::SpokeFull`], [`Error::Full`].
    pub fn keep(&self, spoke: &SpokeName, hash: K, Built { value, bytes }: Built<T>) -> Result<Arc<T>, Error> {
        let mut kept = self.kept.lock();
        // Its turn ended with its build, so another request for the same may have built it since.
        if let Some(known) = kept.by_hash.get(&hash) {
            return Ok(Arc::clone(&known.value));
        }
        self.make_room(&mut kept, spoke, bytes);
        if kept.of(spoke) + bytes > self.capacity.per_spoke || kept.bytes + bytes > self.capacity.total {
            drop(kept);
            self.refused.lock().add(hash, Refusal::Bytes(bytes));
            return Err(self.refuse(spoke, bytes));
        }
        let value = Arc::new(value);
        let entry = Entry {
            spoke: spoke.clone(),
            bytes,
            value: Arc::clone(&value),
        };
        kept.insert(hash, entry);
        self.report(&kept);
        Ok(value)
    }

    fn report(&self, kept: &Kept<K, T>) {
        let bytes = i64::try_from(kept.bytes).unwrap_or(i64::MAX);
        self.metrics.bytes.set(bytes);
    }
}

// === impl Kept ===

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Self {
            by_hash: HashMap::new(),
            bytes: 0,
            by_spoke: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash, T> Kept<K, T> {
    /// How many bytes are charged to a spoke.
    fn of(&self, spoke: &SpokeName) -> usize {
        self.by_spoke.get(spoke).copied().unwrap_or_default()
    }

    /// How many bytes are in use: of this spoke, and in all.
    fn used(&self, of: &SpokeName) -> (usize, usize) {
        let used = self.by_hash.values().filter(|entry| entry.is_used());
        used.fold((0, 0), |(own, all), entry| {
            let bytes = entry.bytes;
            (if entry.spoke == *of { own + bytes } else { own }, all + bytes)
        })
    }

    fn insert(&mut self, hash: K, entry: Entry<T>) {
        self.bytes += entry.bytes;
        *self.by_spoke.entry(entry.spoke.clone()).or_default() += entry.bytes;
        self.by_hash.insert(hash, entry);
    }

    /// Drops unused values of the spokes that `of` selects.
    fn drop_unused(&mut self, of: impl Fn(&SpokeName) -> bool) {
        let dropped: Vec<Entry<T>> = self
            .by_hash
            .extract_if(|_, entry| !entry.is_used() && of(&entry.spoke))
            .map(|(_, entry)| entry)
            .collect();
        for entry in &dropped {
            self.uncharge(entry);
        }
    }

    fn uncharge(&mut self, entry: &Entry<T>) {
        self.bytes -= entry.bytes;
        if let Some(own) = self.by_spoke.get_mut(&entry.spoke) {
            *own -= entry.bytes;
            if *own == 0 {
                self.by_spoke.remove(&entry.spoke);
            }
        }
    }
}

// === impl Entry ===

impl<T> Entry<T> {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.value) > 1
    }
}

#[cfg(test)]
mod tests;
