//! Tells the other hubs what has changed about keys, again and again until Redis has it.
//!
//! Invariants
//! - Everything goes through one backlog, which is bounded: many changes become one message, and too many become a
//!   [`KeyChange::Recheck`].
//! - Callers wait for one attempt, not for its success; a caller that stops waiting takes nothing back.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::HubId;
use alkhub_redis::Redis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::backlog::Backlog;
use super::change::{KeyChange, KeyMessage};

/// The time between two attempts while nothing new comes.
const RETRY: Duration = Duration::from_millis(500);

/// Takes changes for the other hubs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Broadcast {
    unsent: Arc<Backlog>,
    /// How many of the changes have been part of an attempt.
    tried: watch::Receiver<u64>,
}

/// The task that sends them.
pub(super) struct Broadcaster {
    node: String,
    redis: Redis,
    unsent: Arc<Backlog>,
    tried: watch::Sender<u64>,
}

pub(super) fn new(hub: &HubId, redis: Redis) -> (Broadcast, Broadcaster) {
    let unsent = Arc::<Backlog>::default();
    let (sender, tried) = watch::channel(0);
    let broadcast = Broadcast {
        unsent: unsent.clone(),
        tried,
    };
    let broadcaster = Broadcaster {
        node: hub.as_str().to_owned(),
        redis,
        unsent,
        tried: sender,
    };
    (broadcast, broadcaster)
}

// === impl Broadcast ===

impl Broadcast {
    /// Returns when Redis has the change, or could not be reached, in which case the change is sent again later.
    /// Dropping the future takes nothing back.
    pub(super) async fn send(&self, change: KeyChange) {
        let number = self.unsent.add(change);
        // An error means that the hub is ending.
        let _ = self.tried.clone().wait_for(|tried| *tried >= number).await;
    }
}

// === impl Broadcaster ===

impl Broadcaster {
    /// Runs until the end.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut is_late = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.unsent.some.notified() => {}
                () = tokio::time::sleep(RETRY), if is_late => {}
            }
            let Some(sent) = stop.run_until_cancelled(self.send_all()).await else {
                return;
            };
            match (is_late, sent) {
                (false, false) => tracing::warn!("a change of keys did not reach other hubs; it is sent again"),
                (true, true) => tracing::info!("changes of keys have reached the other hubs"),
                (false, true) | (true, false) => {}
            }
            is_late = !sent;
        }
    }

    /// Makes one attempt to send everything; false if something is left.
    async fn send_all(&self) -> bool {
        let mut sent = true;
        let waiting = self.unsent.take();
        for change in waiting.changes {
            let message = KeyMessage {
                node: self.node.clone(),
                change,
            };
            let text = serde_json::to_vec(&message).expect("strings in a struct have a JSON form");
            if let Err(error) = self.redis.publish_key_change(text.into()).await {
                tracing::debug!(error = %error.source, "a change of keys was not sent");
                self.unsent.put_back(message.change);
                sent = false;
            }
        }
        self.tried.send_replace(waiting.last);
        sent
    }
}
