//! News about keys: what is revoked on one hub is refused on all.
//!
//! Invariants
//! - No revocation is lost between the link and the reader: what does not fit is merged, and beyond a bound it
//!   becomes [`KeyChange::Recheck`].
//! - What was missed while the link was down is covered by the `Recheck` that follows when it is up.

use std::sync::Arc;

use alkhub_protocol::HubId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::KeyChange;
use crate::LinkState;
use crate::channel::Names;
use crate::target::redis::Redis;

/// Revoked keys that wait for their reader; beyond it all keys are checked again.
const PENDING_KEYS: usize = 10_000;

/// Tells and hears. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    hub: HubId,
    names: Arc<Names>,
    redis: Option<Redis>,
    pending: Arc<Pending>,
}

/// The task that hands on what is pending.
pub(super) struct Announcer {
    redis: Option<Redis>,
    pending: Arc<Pending>,
    changes: mpsc::Sender<KeyChange>,
}

#[derive(Debug, Default)]
struct Pending {
    news: Mutex<News>,
    some: Notify,
}

#[derive(Debug, Default)]
struct News {
    revoked: Vec<String>,
    recheck: bool,
}

/// A change as it stands on the channel.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    node: String,
    change: KeyChange,
}

pub(super) fn new(
    hub: &HubId,
    names: Arc<Names>,
    redis: Option<Redis>,
) -> (Keys, Announcer, mpsc::Receiver<KeyChange>) {
    let (sender, changes) = mpsc::channel(16);
    let pending = Arc::new(Pending::default());
    let announcer = Announcer {
        redis: redis.clone(),
        pending: pending.clone(),
        changes: sender,
    };
    (
        Keys {
            hub: hub.clone(),
            names,
            redis,
            pending,
        },
        announcer,
        changes,
    )
}

// === impl Keys ===

impl Keys {
    pub(super) async fn announce(&self, change: KeyChange) {
        self.pending.add(change.clone());
        let Some(redis) = &self.redis else { return };
        let message = Message {
            node: self.hub.as_str().to_owned(),
            change,
        };
        let text = serde_json::to_vec(&message).expect("strings in a struct have a JSON form");
        if let Err(error) = redis.tell(self.names.key_changes(), text.into()).await {
            tracing::warn!(error = %error.source, "other hubs were not told that keys changed; they check when their links return");
        }
    }

    /// Takes a message from the channel. What cannot be read may have been a revocation.
    pub(crate) fn read(&self, message: &[u8]) {
        match serde_json::from_slice::<Message>(message) {
            Ok(message) if message.node == self.hub.as_str() => {}
            Ok(message) => self.pending.add(message.change),
            Err(_) => self.pending.add(KeyChange::Recheck),
        }
    }
}

// === impl Announcer ===

impl Announcer {
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut state = self.redis.as_ref().map(|redis| redis.link().state());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.pending.some.notified() => {}
                () = came_up(state.as_mut()) => self.pending.add(KeyChange::Recheck),
            }
            for change in self.pending.take() {
                let sent = stop.run_until_cancelled(self.changes.send(change)).await;
                if !matches!(sent, Some(Ok(()))) {
                    return;
                }
            }
        }
    }
}

/// Waits for the link to come up the next time.
async fn came_up(state: Option<&mut tokio::sync::watch::Receiver<LinkState>>) {
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

// === impl Pending ===

impl Pending {
    fn add(&self, change: KeyChange) {
        let mut news = self.news.lock();
        match change {
            KeyChange::Revoked(mut keys) if news.revoked.len() + keys.len() <= PENDING_KEYS => {
                news.revoked.append(&mut keys);
            }
            KeyChange::Revoked(_) => {
                *news = News {
                    revoked: Vec::new(),
                    recheck: true,
                }
            }
            KeyChange::Recheck => news.recheck = true,
        }
        drop(news);
        self.some.notify_one();
    }

    fn take(&self) -> Vec<KeyChange> {
        let News { revoked, recheck } = std::mem::take(&mut *self.news.lock());
        let revoked = (!revoked.is_empty()).then_some(KeyChange::Revoked(revoked));
        revoked
            .into_iter()
            .chain(recheck.then_some(KeyChange::Recheck))
            .collect()
    }
}
