//! Checks who offers a name, and whether anybody ever did, for calls that find nobody.
//!
//! This hub's directory follows the one in Redis, some milliseconds behind. The specification of another hub's
//! operation has to be loaded from the store. And a hub remembers names that nobody offers now only up to a bound and
//! only since its start, while the store knows every name whose specification it keeps. So a call that finds nobody
//! waits for one look at all three. Then it goes to whoever has come, or it is refused: with `NO_PROVIDER` or
//! `UNAVAILABLE`, which are worth another try, or with `OPERATION_NOT_FOUND`, which is not.
//!
//! Invariants
//! - All calls of a name share one look. There is at most one a second, and it takes at most that second.
//! - Looks are few: many names are looked at together, with a pause before the next batch and one statement in the
//!   store at a time; and a name that the store did not know is not asked for again for a while.
//! - Where there is no time or no room for a look, the hub answers by what it remembers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_hub_cluster::Cluster;
use alkhub_protocol::OperationName;
use alkhub_store::Store;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::Directory;

/// The most names that wait for a look.
const WAITING: usize = 1_024;

/// The most names that are looked at together.
const BATCH: usize = 256;

/// The pause between two looks at the directory in Redis.
const PAUSE: Duration = Duration::from_millis(20);

/// The longest that a look may take, and the shortest time from one look at a name to the next.
const LOOK: Duration = Duration::from_secs(1);

/// The longest that a call waits for its look, since others may come before it.
pub(crate) const LONGEST: Duration = Duration::from_secs(3);

/// For how long a name that the store does not know is not asked for again.
const UNKNOWN: Duration = Duration::from_secs(10);

/// The most names that are remembered: those of looks, and those that the store does not know.
const NAMES: usize = 10_000;

/// Looks at names.
#[derive(Debug)]
pub(crate) struct NameLooks {
    directory: Arc<Directory>,
    cluster: Cluster,
    store: Store,
    tasks: TaskTracker,
    stop: CancellationToken,
    sender: mpsc::Sender<OperationName>,
    receiver: Mutex<Option<mpsc::Receiver<OperationName>>>,
    looks: Mutex<HashMap<OperationName, Look>>,
    unknown: Mutex<HashMap<OperationName, Instant>>,
    /// Held by whoever has a statement in the store.
    statement: tokio::sync::Mutex<()>,
}

/// A look that goes on, or that began less than a second ago.
#[derive(Debug)]
struct Look {
    began: Instant,
    /// Cancelled when the look has ended.
    ended: CancellationToken,
}

// === impl NameLooks ===

impl NameLooks {
    pub(crate) fn new(
        directory: Arc<Directory>,
        cluster: Cluster,
        store: Store,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            directory,
            cluster,
            store,
            tasks,
            stop,
            sender,
            receiver: Mutex::new(Some(receiver)),
            looks: Mutex::default(),
            unknown: Mutex::default(),
            statement: tokio::sync::Mutex::default(),
        }
    }

    /// Begins or joins the look at a name for which nobody was found; returns the token that is cancelled when it has
    /// ended. `None` if a recent look has already ended, or there is no room for another.
    pub(crate) fn begin(&self, name: &OperationName) -> Option<CancellationToken> {
        let mut looks = self.looks.lock();
        if let Some(look) = looks.get(name).filter(|look| look.is_fresh()) {
            return Some(look.ended.clone()).filter(|ended| !ended.is_cancelled());
        }
        if looks.len() >= NAMES {
            looks.retain(|_, look| look.is_fresh());
        }
        if looks.len() >= NAMES {
            return None;
        }
        self.sender.try_send(name.clone()).ok()?;
        let look = Look {
            began: Instant::now(),
            ended: CancellationToken::new(),
        };
        let ended = look.ended.clone();
        looks.insert(name.clone(), look);
        Some(ended)
    }

    /// Looks at names until the hub ends; by then every look has ended.
    pub(crate) async fn run(self: Arc<Self>) {
        let Some(mut receiver) = self.receiver.lock().take() else {
            return;
        };
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = self.stop.run_until_cancelled(receiver.recv_many(&mut batch, BATCH));
            if matches!(received.await, None | Some(0)) {
                receiver.close();
                return self.looks.lock().values().for_each(|look| look.ended.cancel());
            }
            self.look(std::mem::take(&mut batch)).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Looks at the directory, and goes on in a task of its own if that does not settle it.
    async fn look(self: &Arc<Self>, names: Vec<OperationName>) {
        let until = Instant::now() + LOOK;
        // Without an answer, Redis may have more than this hub knows.
        let is_all = match timeout_at(until, self.cluster.catch_up()).await {
            Ok(Ok(is_all)) => is_all,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the directory could not be looked at");
                false
            }
            Err(_) => false,
        };
        let (found, open): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| self.directory.is_offered(name));
        found.iter().for_each(|name| self.end(name));
        if open.is_empty() {
            return;
        }
        let looks = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = looks.stop.clone();
            stop.run_until_cancelled(looks.look_further(open, !is_all, until)).await;
        });
    }

    /// Asks the store for names that this hub does not remember, and waits for specifications; with `comes`, also for
    /// somebody who offers the name.
    async fn look_further(&self, names: Vec<OperationName>, comes: bool, until: Instant) {
        // Without an answer in time, the names stay as unknown as before.
        let _ = timeout_at(until, self.look_up(&names)).await;
        let settling = names.iter().map(|name| async move {
            let _ = timeout_at(until, self.directory.settled(name, comes)).await;
            self.end(name);
        });
        join_all(settling).await;
    }

    fn end(&self, name: &OperationName) {
        if let Some(look) = self.looks.lock().get(name) {
            look.ended.cancel();
        }
    }

    /// Whether the store was asked for a name a moment ago and did not know it.
    fn is_unknown(&self, name: &OperationName) -> bool {
        let since = self.unknown.lock().get(name).copied();
        since.is_some_and(|since| since.elapsed() < UNKNOWN)
    }

    fn note_unknown(&self, name: OperationName) {
        let mut unknown = self.unknown.lock();
        if unknown.len() >= NAMES {
            unknown.retain(|_, since| since.elapsed() < UNKNOWN);
        }
        if unknown.len() < NAMES {
            unknown.insert(name, Instant::now());
        }
    }

    async fn look_up(&self, names: &[OperationName]) {
        let _one = self.statement.lock().await;
        let is_open = |name: &&OperationName| self.directory.pool(name).is_none() && !self.is_unknown(name);
        let mut asked: Vec<OperationName> = names.iter().filter(is_open).cloned().collect();
        if asked.is_empty() || !self.store.ready() {
            return;
        }
        match self.store.operations().known(&asked).await {
            Ok(known) => {
                known.iter().for_each(|name| self.directory.remember(name));
                asked.retain(|name| !known.contains(name));
                asked.into_iter().for_each(|name| self.note_unknown(name));
            }
            Err(error) => tracing::debug!(%error, "names of operations could not be looked up"),
        }
    }
}

// === impl Look ===

impl Look {
    /// Whether it is too early for another look.
    fn is_fresh(&self) -> bool {
        self.began.elapsed() < LOOK || !self.ended.is_cancelled()
    }
}
