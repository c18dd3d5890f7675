//! News about keys: what is revoked on one hub is refused on all.
//!
//! Invariants
//! - No revocation is lost between the link to Redis and the reader: what does not fit is merged, and beyond a bound it
//!   becomes [`KeyChange::Recheck`].
//! - What was missed while that link was down is covered by the `Recheck` that follows when it is up again.
//! - What the other hubs have not got is kept, merged in the same way, and sent again until Redis has it.

mod backlog;
mod broadcast;
mod change;

use std::sync::Arc;

use alkhub_protocol::HubId;
use alkhub_protocol::json::strict;
use alkhub_redis::{LinkState, Redis};
use alkhub_tasks::Supervisor;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use backlog::Backlog;
use broadcast::{Broadcast, Broadcaster};
pub use change::KeyChange;
use change::KeyMessage;

/// The handle to the news about keys. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct KeyNews {
    hub: HubId,
    backlog: Arc<Backlog>,
    /// The way to the other hubs, if there can be any.
    broadcast: Option<Broadcast>,
}

/// The tasks behind [`KeyNews`].
pub(crate) struct Loops {
    notifier: Notifier,
    broadcaster: Option<Broadcaster>,
}

/// The task that hands the backlog to the reader.
struct Notifier {
    link: Option<watch::Receiver<LinkState>>,
    backlog: Arc<Backlog>,
    changes: mpsc::Sender<KeyChange>,
}

/// The parts of one hub's news about keys.
pub(crate) struct KeyParts {
    pub(crate) news: KeyNews,
    /// What has to run in the background.
    pub(crate) loops: Loops,
    /// Where the news comes out.
    pub(crate) changes: mpsc::Receiver<KeyChange>,
}

pub(crate) fn new(hub: &HubId, redis: Option<Redis>) -> KeyParts {
    let (sender, changes) = mpsc::channel(16);
    let backlog = Arc::new(Backlog::default());
    let notifier = Notifier {
        link: redis.as_ref().map(Redis::state),
        backlog: backlog.clone(),
        changes: sender,
    };
    let (broadcast, broadcaster) = redis.map(|redis| broadcast::new(hub, redis)).unzip();
    KeyParts {
        news: KeyNews {
            hub: hub.clone(),
            backlog,
            broadcast,
        },
        loops: Loops { notifier, broadcaster },
        changes,
    }
}

// === impl KeyNews ===

impl KeyNews {
    /// See [`Cluster::announce_key_change`](crate::Cluster::announce_key_change).
    pub(crate) async fn announce(&self, change: KeyChange) {
        self.backlog.add(change.clone());
        if let Some(broadcast) = &self.broadcast {
            broadcast.send(change).await;
        }
    }

    /// Processes a message of the channel. One that cannot be decoded may have been a revocation.
    pub(crate) fn read(&self, message: &[u8]) {
        match strict::from_slice::<KeyMessage>(message) {
            Ok(message) if message.node == self.hub.as_str() => {}
            Ok(message) => {
                self.backlog.add(message.change);
            }
            Err(_) => {
                self.backlog.add(KeyChange::Recheck);
            }
        }
    }
}

// === impl Loops ===

impl Loops {
    pub(crate) fn start(self, supervisor: &Supervisor) {
        let Self { notifier, broadcaster } = self;
        let stop = || supervisor.stop().clone();
        supervisor.keep("cluster.keys", notifier.run(stop()));
        if let Some(broadcaster) = broadcaster {
            supervisor.keep("cluster.key-broadcast", broadcaster.run(stop()));
        }
    }
}

// === impl Notifier ===

impl Notifier {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.backlog.some.notified() => {}
                () = came_up(self.link.as_mut()) => {
                    self.backlog.add(KeyChange::Recheck);
                }
            }
            for change in self.backlog.take().changes {
                let sent = stop.run_until_cancelled(self.changes.send(change)).await;
                if !matches!(sent, Some(Ok(()))) {
                    return;
                }
            }
        }
    }
}

/// Waits until the link to Redis next comes up.
async fn came_up(state: Option<&mut watch::Receiver<LinkState>>) {
    let Some(state) = state else {
        return std::future::pending().await;
    };
    while state.changed().await.is_ok() {
        if state.borrow_and_update().is_up() {
            return;
        }
    }
    std::future::pending().await
}
