//! Relays messages to the inboxes of hubs.

use alkhub_protocol::{Delivered, HubId};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::Undelivered;
use crate::Error;
use crate::target::redis::Redis;

/// The way to other hubs: a closed set, which a link between pods joins later.
#[derive(Debug)]
enum Transport {
    /// There is no other hub.
    Alone,
    /// Through the inboxes on Redis.
    Redis(Redis),
}

/// Sends to the inboxes of hubs.
#[derive(Debug)]
pub(super) struct Relay {
    hub: HubId,
    transport: Transport,
    own: mpsc::Sender<Bytes>,
    returned: mpsc::Sender<Undelivered>,
}

// === impl Relay ===

impl Relay {
    pub(super) fn new(
        hub: &HubId,
        redis: Option<Redis>,
        own: mpsc::Sender<Bytes>,
        returned: mpsc::Sender<Undelivered>,
    ) -> Self {
        Self {
            hub: hub.clone(),
            transport: redis.map_or(Transport::Alone, Transport::Redis),
            own,
            returned,
        }
    }

    /// A message to this hub itself goes straight to its inbox.
    pub(super) fn send(&self, to: &HubId, message: Bytes) -> Result<(), Error> {
        if *to == self.hub {
            return self.own.try_send(message).map_err(|_| Error::Full);
        }
        match &self.transport {
            Transport::Redis(redis) => redis.relay(to, message),
            Transport::Alone => self
                .returned
                .try_send(Undelivered {
                    hub: to.clone(),
                    message,
                    delivered: Delivered::No,
                })
                .map_err(|_| Error::NoCluster),
        }
    }

    pub(super) fn redis(&self) -> Option<&Redis> {
        match &self.transport {
            Transport::Redis(redis) => Some(redis),
            Transport::Alone => None,
        }
    }
}
