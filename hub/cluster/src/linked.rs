//! Hands each message of the links from pod to pod to the part that it is for.

use std::sync::Arc;

use alkhub_peer::PeerReceiver;
use alkhub_protocol::HubId;
use bytes::Bytes;

use crate::conduit::Conduits;
use crate::inbox::InboxSender;
use crate::leases::Leases;
use crate::metrics::Metrics;

/// Where everything goes.
#[derive(Debug)]
pub(crate) struct LinkReceiver {
    pub(crate) inbox: InboxSender,
    pub(crate) conduits: Conduits,
    pub(crate) leases: Arc<Leases>,
    pub(crate) metrics: Metrics,
}

// === impl LinkReceiver ===

impl PeerReceiver for LinkReceiver {
    /// A message that its reader has no room for is lost, and the reader learns it.
    fn received(&self, message: Bytes) {
        if !self.inbox.push(message) {
            self.metrics.unread.inc();
        }
    }

    fn is_full(&self) -> bool {
        self.inbox.is_half_full()
    }

    fn link_changed(&self, hub: &HubId) {
        self.conduits.carrier_changed(hub);
        self.leases.link_changed(hub);
    }
}
