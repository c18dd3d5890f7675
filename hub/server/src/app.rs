//! The parts of one hub.

use std::ops::Deref;
use std::sync::Arc;

use alkhub_api::Api;
use alkhub_calls::Calls;
use alkhub_config::HubConfig;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::{Edge, VERSION};
use alkhub_hub_cluster::{Cluster, Lease};
use alkhub_socket::Sockets;
use alkhub_store::Store;
use axum::extract::FromRef;
use prometheus::Registry;

use crate::marked::Marked;
use crate::readiness::Readiness;

/// A handle to one hub's parts; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Inner>);

/// The parts.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: HubConfig,
    pub(crate) edge: Edge,
    pub(crate) store: Store,
    pub(crate) cluster: Cluster,
    pub(crate) calls: Calls,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    pub(crate) api: Api,
    pub(crate) sockets: Sockets,
    /// Whether it was told to drain.
    pub(crate) marked: Marked,
}

// === impl App ===

impl App {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// What this hub publishes about itself in its lease.
    pub(crate) fn lease(&self) -> Lease {
        Lease {
            pod: self.config.pod.name.clone(),
            version: VERSION.to_owned(),
            connections: u64::try_from(self.edge.open().count(ConnectionKind::Websocket)).unwrap_or(u64::MAX),
            draining: self.is_draining(),
            weight: 1,
            revision: self.config.pod.revision.clone(),
            // The cluster fills these in.
            turn: 0,
            peer: None,
        }
    }

    /// Whether the hub gives its connections away: it is ending, or was told to.
    pub(crate) fn is_draining(&self) -> bool {
        self.readiness.is_draining() || self.marked.is_draining()
    }
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl FromRef<App> for Api {
    fn from_ref(app: &App) -> Self {
        app.api.clone()
    }
}

impl FromRef<App> for Sockets {
    fn from_ref(app: &App) -> Self {
        app.sockets.clone()
    }
}
