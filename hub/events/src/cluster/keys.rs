//! News about keys: what is revoked on one hub is refused on all.
//!
//! Invariants
//! - No revocation is lost between the link and the reader: what does not fit is merged, and beyond a bound it
//!   becomes [`KeyChange::Recheck`].
//! - What was missed while the link was down is covered by the `Recheck` that follows when it is up.
//! - What the other hubs could not be told is kept, merged in the same way, and told again until Redis has it.

mod told;

use std::sync::Arc;

use alkhub_protocol::HubId;
use alkhub_protocol::json::strict;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::KeyChange;
use crate::LinkState;
use crate::channel::Names;
use crate::target::redis::Redis;
pub(super) use told::Teller;
use told::Telling;

/// Revoked keys that wait for their reader; beyond it all keys are checked again.
const PENDING_KEYS: usize = 10_000;

/// Tells and hears. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    hub: HubId,
    pending: Arc<Pending>,
    /// To the other hubs, where there can be any.
    telling: Option<Telling>,
}

/// What runs behind [`Keys`].
pub(super) struct Parts {
    pub(super) announcer: Announcer,
    pub(super) teller: Option<Teller>,
    pub(super) changes: mpsc::Receiver<KeyChange>,
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
    /// Changes until now.
    count: u64,
}

/// A change as it stands on the channel.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    node: String,
    change: KeyChange,
}

pub(super) fn new(hub: &HubId, names: Arc<Names>, redis: Option<Redis>) -> (Keys, Parts) {
    let (sender, changes) = mpsc::channel(16);
    let pending = Arc::new(Pending::default());
    let announcer = Announcer {
        redis: redis.clone(),
        pending: pending.clone(),
        changes: sender,
    };
    let (telling, teller) = redis.map(|redis| told::new(hub, names, redis)).unzip();
    (
        Keys {
            hub: hub.clone(),
            pending,
            telling,
        },
        Parts {
            announcer,
            teller,
            changes,
        },
    )
}

// === impl Keys ===

impl Keys {
    pub(super) async fn announce(&self, change: KeyChange) {
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

// === impl Announcer ===

impl Announcer {
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut state = self.redis.as_ref().map(|redis| redis.link().state());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.pending.some.notified() => {}
                () = came_up(state.as_mut()) => {
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
    /// Adds a change and answers its number, from 1.
    fn add(&self, change: KeyChange) -> u64 {
        let mut news = self.news.lock();
        news.merge(change);
        news.count += 1;
        let number = news.count;
        drop(news);
        self.some.notify_one();
        number
    }

    /// Adds what was taken before; wakes nobody.
    fn put_back(&self, change: KeyChange) {
        self.news.lock().merge(change);
    }

    /// What is pending, and the number of the last change in it.
    fn take(&self) -> (Vec<KeyChange>, u64) {
        let mut news = self.news.lock();
        let revoked = std::mem::take(&mut news.revoked);
        let recheck = std::mem::take(&mut news.recheck).then_some(KeyChange::Recheck);
        let revoked = (!revoked.is_empty()).then_some(KeyChange::Revoked(revoked));
        (revoked.into_iter().chain(recheck).collect(), news.count)
    }
}

// === impl News ===

impl News {
    fn merge(&mut self, change: KeyChange) {
        match change {
            KeyChange::Revoked(mut keys) if self.revoked.len() + keys.len() <= PENDING_KEYS => {
                self.revoked.append(&mut keys);
            }
            KeyChange::Revoked(_) => {
                self.revoked = Vec::new();
                self.recheck = true;
            }
            KeyChange::Recheck => self.recheck = true,
        }
    }
}
