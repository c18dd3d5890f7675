//! Tells the other hubs what changed about keys, again and again until Redis has it.
//!
//! Invariants
//! - What is told goes through one queue, which is bounded as everything pending is: many changes become one message, too
//!   many a [`KeyChange::Recheck`].
//! - Who waits, waits for one attempt, not for the success. Who stops waiting takes nothing back.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::HubId;
use alkhub_redis::Redis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::change::{KeyChange, Message};
use super::pending::Pending;

/// Between two attempts while nothing new comes.
const RETRY: Duration = Duration::from_millis(500);

/// Takes changes for the other hubs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Telling {
    untold: Arc<Pending>,
    /// With how many of the changes an attempt was made.
    tried: watch::Receiver<u64>,
}

/// The task that tells them.
pub(super) struct Teller {
    node: String,
    redis: Redis,
    untold: Arc<Pending>,
    tried: watch::Sender<u64>,
}

pub(super) fn new(hub: &HubId, redis: Redis) -> (Telling, Teller) {
    let untold = Arc::<Pending>::default();
    let (sender, tried) = watch::channel(0);
    let telling = Telling {
        untold: untold.clone(),
        tried,
    };
    let teller = Teller {
        node: hub.as_str().to_owned(),
        redis,
        untold,
        tried: sender,
    };
    (telling, teller)
}

// === impl Telling ===

impl Telling {
    /// Returns when Redis has the change, or could not be told now: then it is tried again. Dropping the future takes
    /// nothing back.
    pub(super) async fn tell(&self, change: KeyChange) {
        let number = self.untold.add(change);
        // An error: the hub is ending.
        let _ = self.tried.clone().wait_for(|tried| *tried >= number).await;
    }
}

// === impl Teller ===

impl Teller {
    /// Runs until the end.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut is_late = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.untold.some.notified() => {}
                () = tokio::time::sleep(RETRY), if is_late => {}
            }
            let Some(told) = stop.run_until_cancelled(self.tell_all()).await else {
                return;
            };
            match (is_late, told) {
                (false, false) => tracing::warn!("other hubs could not be told that keys changed; it is tried again"),
                (true, true) => tracing::info!("other hubs have been told that keys changed"),
                (false, true) | (true, false) => {}
            }
            is_late = !told;
        }
    }

    /// One attempt with everything; false when something is left.
    async fn tell_all(&self) -> bool {
        let mut told = true;
        let (changes, number) = self.untold.take();
        for change in changes {
            let message = Message {
                node: self.node.clone(),
                change,
            };
            let text = serde_json::to_vec(&message).expect("strings in a struct have a JSON form");
            if let Err(error) = self.redis.publish_key_change(text.into()).await {
                tracing::debug!(error = %error.source, "other hubs were not told that keys changed");
                self.untold.put_back(message.change);
                told = false;
            }
        }
        self.tried.send_replace(number);
        told
    }
}
