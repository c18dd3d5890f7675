//! Look-ups for addresses that sent too many bad keys: all that wait go into one statement, and one statement follows
//! the other.
//!
//! A guesser and the holder of a good key may share such an address, and only the look-up tells them apart. So nobody
//! is left out, and the cost to Postgres is bounded by the number of statements, not of keys.
//!
//! Invariants
//! - At most one statement runs at a time, and at most [`STATEMENTS`] in a second.
//! - When [`WAITING`] wait already, further ones are refused and asked to try again.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_protocol::Chain;
use alkhub_store::{KeyHash, KeyRecord, Store};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

/// Statements in a second, at most.
const STATEMENTS: u32 = 50;

/// The most keys that wait at once, and the most in one statement.
const WAITING: usize = 4_096;

/// Keys that wait for their look-up.
#[derive(Debug)]
pub(super) struct SuspectLookups {
    asks: mpsc::Sender<Ask>,
    /// Held by the one loop that answers.
    waiting: Mutex<mpsc::Receiver<Ask>>,
}

/// Why there is no key for a hash.
#[derive(Debug)]
pub(super) enum NotFound {
    Unknown,
    /// Too many wait for a look-up.
    Busy,
    Store(alkhub_store::Error),
    /// The store failed; that is logged elsewhere.
    Away,
}

#[derive(Debug)]
struct Ask {
    hash: KeyHash,
    answer: oneshot::Sender<Option<KeyRecord>>,
}

// === impl SuspectLookups ===

impl SuspectLookups {
    pub(super) fn new() -> Self {
        let (asks, waiting) = mpsc::channel(WAITING);
        Self {
            asks,
            waiting: Mutex::new(waiting),
        }
    }

    /// Looks a key up with the next batch. If the future is dropped, nobody takes the answer.
    pub(super) async fn find(&self, hash: KeyHash) -> Result<Option<KeyRecord>, NotFound> {
        let (answer, found) = oneshot::channel();
        let asked = self.asks.try_send(Ask { hash, answer });
        asked.map_err(|_| NotFound::Busy)?;
        found.await.map_err(|_| NotFound::Away)
    }

    /// Looks up all that wait. If Postgres does not answer, they get [`NotFound::Away`].
    async fn answer(store: &Store, asks: Vec<Ask>) {
        let hashes: Vec<KeyHash> = asks.iter().map(|ask| ask.hash).collect();
        let found: HashMap<KeyHash, KeyRecord> = match store.keys().find_many(&hashes).await {
            Ok(found) => found.into_iter().collect(),
            Err(error) => {
                tracing::warn!(error = %Chain::of(&error), keys = asks.len(), "keys cannot be looked up");
                return;
            }
        };
        for ask in asks {
            // Whoever asked may be gone.
            let _ = ask.answer.send(found.get(&ask.hash).cloned());
        }
    }

    /// Looks keys up for as long as it is polled.
    pub(super) async fn answer_all(&self, store: &Store) {
        let mut waiting = self.waiting.lock().await;
        let mut ticks = interval(Duration::from_secs(1) / STATEMENTS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks = Vec::new();
        while waiting.recv_many(&mut asks, WAITING).await > 0 {
            ticks.tick().await;
            // Those that arrived meanwhile go with them.
            while asks.len() < WAITING
                && let Ok(ask) = waiting.try_recv()
            {
                asks.push(ask);
            }
            Self::answer(store, std::mem::take(&mut asks)).await;
        }
    }
}
