//! News about keys: what is revoked on one hub is refused on all.
//!
//! Invariants
//! - No revocation is lost between the link and the reader: what does not fit is merged, and beyond a bound it
//!   becomes [`KeyChange::Recheck`].
//! - What was missed while the link was down is covered by the `Recheck` that follows when it is up.
//! - What the other hubs could not be told is kept, merged in the same way, and told again until Redis has it.

mod change;
mod pending;
mod told;

use std::sync::Arc;

use alkhub_protocol::HubId;
use alkhub_protocol::json::strict;
use alkhub_redis::{LinkState, Redis};
use alkhub_tasks::Supervisor;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use change::KeyChange;
use change::Message;
use pending::Pending;
use told::{Teller, Telling};

/// Tells and hears. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    hub: HubId,
    pending: Arc<Pending>,
    /// To the other hubs, where there can be any.
    telling: Option<Telling>,
}

/// What runs behind [`Keys`].
pub(crate) struct Loops {
    announcer: Announcer,
    teller: Option<Teller>,
}

/// The task that hands on what is pending.
struct Announcer {
    link: Option<watch::Receiver<LinkState>>,
    pending: Arc<Pending>,
    changes: mpsc::Sender<KeyChange>,
}

/// The handle, what has to run behind it, and where the news come out.
pub(crate) fn new(hub: &HubId, redis: Option<Redis>) -> (Keys, Loops, mpsc::Receiver<KeyChange>) {
    let (sender, changes) = mpsc::channel(16);
    let pending = Arc::new(Pending::default());
    let announcer = Announcer {
        link: redis.as_ref().map(Redis::state),
        pending: pending.clone(),
        changes: sender,
    };
    let (telling, teller) = redis.map(|redis| told::new(hub, redis)).unzip();
    let keys = Keys {
        hub: hub.clone(),
        pending,
        telling,
    };
    (keys, Loops { announcer, teller }, changes)
}

// === impl Keys ===

impl Keys {
    /// See [`Cluster::announce_key_change`](crate::Cluster::announce_key_change).
    pub(crate) async fn announce(&self, change: KeyChange) {
        self.pending.add(change.clone());
        if let Some(telling) = &self.telling {
            telling.tell(change).await;
        }
    }

    /// Takes a message from the channel. What cannot be read may have been a revocation.
    pub(crate) fn read(&self, message: &[u8]) {
        match strict::from_slice::<Message>(message) {
            Ok(message) if message.node == self.hub.as_str() => {}
            Ok(message) => {
                self.pending.add(message.change);
            }
            Err(_) => {
                self.pending.add(KeyChange::Recheck);
            }
        }
    }
}

// === impl Loops ===

impl Loops {
    pub(crate) fn start(self, supervisor: &Supervisor) {
        let Self { announcer, teller } = self;
        let stop = || supervisor.stop().clone();
        supervisor.keep("cluster.keys", announcer.run(stop()));
        if let Some(teller) = teller {
            supervisor.keep("cluster.told-keys", teller.run(stop()));
        }
    }
}

// === impl Announcer ===

impl Announcer {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.pending.some.notified() => {}
                () = came_up(self.link.as_mut()) => {
                    self.pending.add(KeyChange::Recheck);
                }
            }
            for change in self.pending.take().0 {
                let sent = stop.run_until_cancelled(self.changes.send(change)).await;
                if !matches!(sent, Some(Ok(()))) {
                    return;
                }
            }
        }
    }
}

/// Waits for the link to come up the next time.
async fn came_up(state: Option<&mut watch::Receiver<LinkState>>) {
    let Some(state) = state else {
        return std::future::pending().await;
    };
    while state.changed().await.is_ok() {
        if *state.borrow_and_update() == LinkState::Up {
            return;
        }
    }
    std::future::pending().await
}
