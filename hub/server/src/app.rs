//! What the surfaces of one hub share.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use alkhub_calls::Calls;
use alkhub_config::HubConfig;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::{Edge, VERSION};
use alkhub_events::{Fabric, Lease, Limits};
use alkhub_protocol::{CallRequest, OperationKind, OperationName};
use alkhub_store::Store;
use axum::extract::FromRef;
use prometheus::Registry;
use serde::Deserialize;
use tokio::sync::watch;

use crate::http::document::Document;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::ws::Clock;

/// A handle to one hub's parts; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Inner>);

/// The parts.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: HubConfig,
    pub(crate) edge: Edge,
    pub(crate) store: Store,
    pub(crate) fabric: Fabric,
    pub(crate) calls: Calls,
    /// The beat of the WebSockets.
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    /// Changes when silent streams need a sign of life.
    pub(crate) beat: watch::Sender<()>,
    /// What `/v1/openapi.json` answers.
    pub(crate) document: OnceLock<Document>,
}

/// What matters here of the input of `hub.call`.
#[derive(Deserialize)]
struct HubCall {
    operation: OperationName,
}

// === impl App ===

impl App {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// What may wait for one connection's subscriptions.
    pub(crate) fn event_limits(&self) -> Limits {
        Limits {
            items: self.config.events.queue_items,
            bytes: self.config.events.queue_bytes,
        }
    }

    /// Whether what is called is a query, a mutation or a subscription: of `hub.call`, the operation that it calls.
    /// `None` when no spoke has offered it.
    pub(crate) fn kind(&self, request: &CallRequest) -> Option<OperationKind> {
        if request.operation.as_str() != "hub.call" {
            return self.calls.kind(&request.operation);
        }
        // An input that is none is refused where it is called.
        let inner: HubCall = request.input.as_ref()?.to().ok()?;
        self.calls.kind(&inner.operation)
    }

    /// What this hub says of itself in its lease.
    pub(crate) fn lease(&self) -> Lease {
        Lease {
            pod: self.config.pod.name.clone(),
            version: VERSION.to_owned(),
            connections: u64::try_from(self.edge.open().count(ConnectionKind::Websocket)).unwrap_or(u64::MAX),
            draining: self.readiness.is_draining(),
            weight: 1,
        }
    }
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl FromRef<App> for Edge {
    fn from_ref(app: &App) -> Self {
        app.edge.clone()
    }
}
