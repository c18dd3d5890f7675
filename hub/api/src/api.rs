//! The state of the handlers of this surface.

use std::sync::Arc;

use alkhub_calls::Calls;
use alkhub_edge::Edge;
use alkhub_events::{Bus, Limits};
use alkhub_hub_cluster::Cluster;
use alkhub_store::Store;
use axum::extract::FromRef;
use serde_json::Value;
use tokio::sync::watch;

use crate::document::Document;
use crate::keep_alive::KeepAlive;

/// The state of this surface. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api(Arc<Shared>);

/// What [`Api::new`] needs.
#[derive(Debug)]
pub struct ApiParts {
    /// The state that all surfaces of the hub share.
    pub edge: Edge,
    /// Calls, operations and connected spokes.
    pub calls: Calls,
    /// Keys, spokes and records of calls.
    pub store: Store,
    /// Events.
    pub bus: Bus,
    /// The other hubs.
    pub cluster: Cluster,
    /// The hub's `events.prefix`, for its report.
    pub channel_prefix: String,
    /// How much may wait for one stream's topics.
    pub event_limits: Limits,
    /// How much may wait for one stream's items (`calls.subscription-items`).
    pub subscription_items: usize,
    /// Makes the OpenAPI document of the hub; called once.
    pub document: fn() -> Value,
}

#[derive(Debug)]
struct Shared {
    parts: ApiParts,
    document: Arc<Document>,
    keep_alive: KeepAlive,
}

// === impl Api ===

impl Api {
    /// The surface of one hub.
    pub fn new(parts: ApiParts) -> Self {
        Self(Arc::new(Shared {
            document: Arc::new(Document::new(parts.document)),
            keep_alive: KeepAlive::new(),
            parts,
        }))
    }

    /// Keeps silent streams alive until the hub stops.
    pub async fn keep_alive(self) {
        self.0.keep_alive.run(&self.edge().scope().stop).await;
    }

    pub(crate) fn edge(&self) -> &Edge {
        &self.0.parts.edge
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.0.parts.calls
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.parts.store
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.0.parts.bus
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.0.parts.cluster
    }

    /// The settings and limits with which it was made.
    pub(crate) fn parts(&self) -> &ApiParts {
        &self.0.parts
    }

    /// Changes when a silent stream needs a sign of life.
    pub(crate) fn beat(&self) -> watch::Receiver<()> {
        self.0.keep_alive.subscribe()
    }
}

impl FromRef<Api> for Edge {
    fn from_ref(api: &Api) -> Self {
        api.edge().clone()
    }
}

impl FromRef<Api> for Arc<Document> {
    fn from_ref(api: &Api) -> Self {
        api.0.document.clone()
    }
}
