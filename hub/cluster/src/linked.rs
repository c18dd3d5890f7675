//! Passes each message from the links between pods to the part that it is for.

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
    /// A message for which its reader has no room is lost, and the reader is told.
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
