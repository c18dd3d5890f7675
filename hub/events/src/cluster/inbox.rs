//! Relays messages to the inboxes of hubs.

use alkhub_protocol::HubId;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::Error;
use crate::target::redis::Redis;

/// The way to other hubs; Redis now, and the place where a peer link joins later.
#[derive(Debug)]
pub(super) struct Relay {
    hub: HubId,
    redis: Option<Redis>,
    own: mpsc::Sender<Bytes>,
    returned: mpsc::Sender<(HubId, Bytes)>,
}

// === impl Relay ===

impl Relay {
    pub(super) fn new(
        hub: &HubId,
        redis: Option<Redis>,
        own: mpsc::Sender<Bytes>,
        returned: mpsc::Sender<(HubId, Bytes)>,
    ) -> Self {
        Self {
            hub: hub.clone(),
            redis,
            own,
            returned,
        }
    }

    /// A message to this hub itself goes straight to its inbox.
    pub(super) fn send(&self, to: &HubId, message: Bytes) -> Result<(), Error> {
        if *to == self.hub {
            return self.own.try_send(message).map_err(|_| Error::Full);
        }
        match &self.redis {
            Some(redis) => redis.relay(to, message),
            None => self
                .returned
                .try_send((to.clone(), message))
                .map_err(|_| Error::NoCluster),
        }
    }

    pub(super) fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }
}
