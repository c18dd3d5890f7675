//! What the surfaces of one hub share.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use alkhub_budget::Budgets;
use alkhub_calls::Calls;
use alkhub_config::HubConfig;
use alkhub_events::{Fabric, Lease, Limits};
use alkhub_protocol::{CallRequest, HubId, OperationKind, OperationName};
use alkhub_store::Store;
use prometheus::Registry;
use serde::Deserialize;
use tokio::sync::watch;

use crate::auth::KeyRing;
use crate::http::document::Document;
use crate::listener::Scope;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::streams::Streams;
use crate::ws::Sockets;

/// The software's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A handle to one hub's parts; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Inner>);

/// The parts.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: HubConfig,
    pub(crate) hub_id: HubId,
    pub(crate) store: Store,
    pub(crate) fabric: Fabric,
    pub(crate) calls: Calls,
    pub(crate) budgets: Budgets,
    pub(crate) keys: KeyRing,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    pub(crate) scope: Scope,
    /// Changes when silent streams need a sign of life.
    pub(crate) beat: watch::Sender<()>,
    pub(crate) connections: AtomicU64,
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

    /// A name for a connection, unique on this hub.
    pub(crate) fn connection_id(&self) -> String {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        format!("{}-c{number}", self.hub_id)
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
            connections: self.metrics.websockets(),
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
