//! The links of one hub: which are up, and how each is served.
//!
//! Invariants
//! - There is one link to each hub: a new link takes the place of the previous one, which may be half open.
//! - The receiver is told of a change only after the change is visible.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::HubId;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::address::PeerAddress;
use crate::frames::Frames;
use crate::link::{LinkEnd, NotCarried, PeerLink, Surroundings};
use crate::metrics::Metrics;
use crate::receiver::PeerReceiver;
use crate::secret::PeerSecret;

/// The links of one hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerLinks(pub(crate) Arc<Shared>);

/// What the links of one hub share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: HubId,
    pub(crate) secret: PeerSecret,
    pub(crate) ping_interval: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Metrics,
    /// Where the other hubs take links.
    pub(crate) others: watch::Sender<BTreeMap<HubId, PeerAddress>>,
    links: RwLock<HashMap<HubId, Arc<PeerLink>>>,
}

// === impl PeerLinks ===

impl PeerLinks {
    /// Sends a message to a hub. Never waits.
    ///
    /// # Errors
    /// The message was not taken.
    pub fn send(&self, to: &HubId, message: Bytes) -> Result<(), NotCarried> {
        match self.0.links.read().get(to) {
            Some(link) => link.push(message),
            None => Err(NotCarried::NoLink),
        }
    }

    /// Whether there is a link to a hub.
    pub fn is_up(&self, hub: &HubId) -> bool {
        self.0.links.read().contains_key(hub)
    }

    /// Sets which other hubs are there, and where each takes links. A link to a hub that is no longer there continues,
    /// but no new one is made.
    pub fn others_are(&self, others: BTreeMap<HubId, PeerAddress>) {
        self.0.others.send_if_modified(|known| {
            let has_changed = *known != others;
            *known = others;
            has_changed
        });
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        hub: HubId,
        secret: PeerSecret,
        ping_interval: Duration,
        stop: CancellationToken,
        metrics: Metrics,
    ) -> Self {
        Self {
            hub,
            secret,
            ping_interval,
            stop,
            metrics,
            others: watch::Sender::default(),
            links: RwLock::default(),
        }
    }

    /// Serves a link to a hub until it ends.
    pub(crate) async fn serve<S: AsyncRead + AsyncWrite>(
        &self,
        hub: &HubId,
        frames: Frames<S>,
        receiver: &dyn PeerReceiver,
    ) {
        let link = self.enter(hub);
        tracing::info!(hub.id = %hub, "the link to another pod is up");
        receiver.link_changed(hub);
        let around = Surroundings {
            receiver,
            metrics: &self.metrics,
            ping_interval: self.ping_interval,
            stop: &self.stop,
        };
        let end = link.serve(frames, around).await;
        self.leave(hub, &link);
        self.metrics.lost.with_label_values(&[end.label()]).inc();
        match end {
            LinkEnd::Ended => {}
            LinkEnd::Closed
            | LinkEnd::Broke(_)
            | LinkEnd::Protocol(_)
            | LinkEnd::Silent
            | LinkEnd::Stalled
            | LinkEnd::Dropped => {
                tracing::warn!(hub.id = %hub, reason = %end, "the link to another pod ended");
            }
        }
        receiver.link_changed(hub);
    }

    fn enter(&self, hub: &HubId) -> Arc<PeerLink> {
        let link = Arc::<PeerLink>::default();
        let mut links = self.links.write();
        let before = links.insert(hub.clone(), Arc::clone(&link));
        self.count(&links);
        drop(links);
        if let Some(before) = before {
            before.close.cancel();
        }
        self.metrics.made.inc();
        link
    }

    fn leave(&self, hub: &HubId, link: &Arc<PeerLink>) {
        let mut links = self.links.write();
        if links.get(hub).is_some_and(|now| Arc::ptr_eq(now, link)) {
            links.remove(hub);
        }
        self.count(&links);
    }

    fn count(&self, links: &HashMap<HubId, Arc<PeerLink>>) {
        self.metrics.links.set(i64::try_from(links.len()).unwrap_or(i64::MAX));
    }
}
