//! Passes each message that the link to Redis brings from other hubs to the part that it is for.

use alkhub_redis::{HubReceiver, Undelivered};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::directory::Feed;
use crate::inbox::InboxSender;
use crate::keys::KeyNews;
use crate::metrics::Metrics;

/// Where everything goes.
#[derive(Debug)]
pub(crate) struct ClusterReceiver {
    pub(crate) inbox: InboxSender,
    pub(crate) feed: Feed,
    pub(crate) keys: KeyNews,
    pub(crate) undeliverable: mpsc::Sender<Undelivered>,
    pub(crate) metrics: Metrics,
}

// === impl ClusterReceiver ===

impl HubReceiver for ClusterReceiver {
    /// A message for which its reader has no room is lost, and the reader is told.
    fn relayed(&self, message: Bytes) {
        if !self.inbox.push(message) {
            self.metrics.unread.inc();
        }
    }

    fn directory_changed(&self, message: Bytes) {
        self.feed.push(message);
    }

    fn keys_changed(&self, message: Bytes) {
        self.keys.read(&message);
    }

    fn delivered(&self) {
        self.metrics.relayed.inc();
    }

    fn undelivered(&self, undelivered: Undelivered) {
        self.metrics.undeliverable.inc();
        if self.undeliverable.try_send(undelivered).is_err() {
            self.metrics.forsaken.inc();
        }
    }
}
