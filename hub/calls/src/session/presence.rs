//! Writes to the store which spokes are connected and when they were last seen: in batches, and never on the call path.
//!
//! Invariants
//! - A connected spoke that no resource declares has a row, even if the schema was made anew meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::SpokeName;
use alkhub_store::Store;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::session::sessions::Sessions;

/// How often heartbeats are written, at most.
const HEARTBEATS: Duration = Duration::from_secs(60);

/// How long comings and goings are collected.
const COLLECT: Duration = Duration::from_millis(500);

/// The wait after a failed write.
const RETRY: Duration = Duration::from_secs(5);

/// How many spokes with news are remembered while Postgres is away.
const NEWS: usize = 20_000;

/// Comings and goings that are not written yet.
#[derive(Debug)]
pub(crate) struct Presence {
    store: Store,
    sessions: Arc<Sessions>,
    stop: CancellationToken,
    news: Mutex<BTreeMap<SpokeName, News>>,
    wake: Notify,
    /// Connected spokes that no resource declares, each with the time at which it came: only this hub makes their rows.
    undeclared: Mutex<BTreeMap<SpokeName, Timestamp>>,
}

/// The news of one spoke; only the last counts.
#[derive(Clone, Debug, Default)]
struct News {
    /// No resource declares the spoke: its row may have to be made.
    undeclared: bool,
    connected: Option<Timestamp>,
    disconnected: Option<Timestamp>,
}

// === impl Presence ===

impl Presence {
    pub(crate) fn new(store: Store, sessions: Arc<Sessions>, stop: CancellationToken) -> Self {
        Self {
            store,
            sessions,
            stop,
            news: Mutex::default(),
            wake: Notify::new(),
            undeclared: Mutex::default(),
        }
    }

    pub(crate) fn came(&self, spoke: &SpokeName, undeclared: bool) {
        let now = Timestamp::now();
        let mut known = self.undeclared.lock();
        if undeclared {
            known.insert(spoke.clone(), now);
        }
        self.note(spoke, |news| {
            news.undeclared |= undeclared;
            news.connected = Some(now);
            news.disconnected = None;
        });
    }

    /// Notes that an instance of a spoke has left, unless another one is here.
    ///
    /// `is_here` is asked under the lock: an instance that comes meanwhile is noted after this.
    pub(crate) fn left_unless(&self, spoke: &SpokeName, is_here: impl FnOnce() -> bool) {
        let mut undeclared = self.undeclared.lock();
        if is_here() {
            return;
        }
        undeclared.remove(spoke);
        self.note(spoke, |news| news.disconnected = Some(Timestamp::now()));
    }

    /// The store may have lost its rows: those that only this hub makes are news again.
    fn repeat(&self) {
        let undeclared = self.undeclared.lock().clone();
        for (spoke, at) in undeclared {
            self.note(&spoke, |news| {
                news.undeclared = true;
                if news.connected.is_none() {
                    news.connected = Some(at);
                }
            });
        }
        // Whoever waits for news may have been woken for other news, and the wake-up lost to this.
        self.wake.notify_one();
    }

    fn note(&self, spoke: &SpokeName, change: impl FnOnce(&mut News)) {
        let mut news = self.news.lock();
        if news.len() < NEWS || news.contains_key(spoke) {
            change(news.entry(spoke.clone()).or_default());
            self.wake.notify_one();
        } else {
            tracing::warn!(spoke.id = %spoke, "Postgres is away for long: that a spoke came or went is not written");
        }
    }

    /// Makes what could not be written news again, unless there is newer news.
    fn put_back(&self, spoke: SpokeName, old: News) {
        self.news.lock().entry(spoke).or_insert(old);
    }

    /// Writes news and heartbeats until the hub ends, and then the last news.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut incarnation = self.store.incarnation();
        let mut heartbeat_at = Instant::now() + HEARTBEATS;
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep_until(heartbeat_at) => {
                    heartbeat_at = Instant::now() + HEARTBEATS;
                    self.write_heartbeats().await;
                    self.write_news().await; // Its own branch may have been woken and lost the wake-up here.
                }
                Ok(()) = incarnation.changed() => self.repeat(),
                () = self.news_after(wait) => {
                    wait = if self.write_news().await { Duration::ZERO } else { RETRY };
                }
            }
        }
        self.write_news().await;
    }

    async fn news_after(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
        self.wake.notified().await;
        tokio::time::sleep(COLLECT).await;
    }

    async fn write_heartbeats(&self) {
        let now = Timestamp::now();
        let heard = self.sessions.take_heard().into_iter();
        let heard: BTreeMap<SpokeName, Timestamp> = heard.map(|spoke| (spoke, now)).collect();
        let heard: Vec<_> = heard.into_iter().collect();
        if heard.is_empty() {
            return;
        }
        if let Err(error) = self.store.spokes().touch(&heard).await {
            // The next heartbeat will say the same.
            tracing::debug!(%error, "heartbeats of spokes were not written");
        }
    }

    /// Writes what is new; false when something could not be written.
    async fn write_news(&self) -> bool {
        let news = std::mem::take(&mut *self.news.lock());
        let mut written = true;
        for (spoke, news) in news {
            if let Err(error) = self.write_one(&spoke, &news).await {
                tracing::debug!(spoke.id = %spoke, %error, "that a spoke came or went was not written");
                if error.is_transient() {
                    self.put_back(spoke, news);
                    self.wake.notify_one();
                    written = false;
                }
            }
        }
        written
    }

    async fn write_one(&self, spoke: &SpokeName, news: &News) -> Result<(), alkhub_store::Error> {
        let spokes = self.store.spokes();
        if news.undeclared {
            spokes.ensure_adhoc(spoke).await?;
        }
        if let Some(at) = news.connected {
            spokes.connected(spoke, at).await?;
        }
        if let Some(at) = news.disconnected {
            spokes.disconnected(spoke, at).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
