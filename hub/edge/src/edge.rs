//! What all surfaces of one hub share.

use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alkhub_budget::Budgets;
use alkhub_config::ServerConfig;
use alkhub_protocol::HubId;

use crate::auth::KeyRing;
use crate::metrics::EdgeMetrics;
use crate::open::Open;
use crate::scope::Scope;

/// A handle to what the surfaces of one hub share. Cheap to clone. The extractors of this crate work in every router
/// whose state contains one (`Edge: FromRef<S>`).
#[derive(Clone, Debug)]
pub struct Edge(Arc<Shared>);

/// What [`Edge::new`] needs.
#[derive(Debug)]
pub struct EdgeParts {
    /// This process.
    pub hub_id: HubId,
    /// Limits of clients, and the proxies that are trusted.
    pub server: ServerConfig,
    /// Looks keys up.
    pub keys: Arc<KeyRing>,
    /// What is open.
    pub open: Open,
    /// How much keys may make this hub keep.
    pub budgets: Budgets,
    /// Counts requests and connections.
    pub metrics: Arc<EdgeMetrics>,
    /// The hub's tasks.
    pub scope: Scope,
}

#[derive(Debug)]
struct Shared {
    parts: EdgeParts,
    connections: AtomicU64,
    sources: RandomState,
}

// === impl Edge ===

impl Edge {
    /// Joins the parts.
    pub fn new(parts: EdgeParts) -> Self {
        Self(Arc::new(Shared {
            parts,
            connections: AtomicU64::new(0),
            sources: RandomState::new(),
        }))
    }

    /// This process.
    pub fn hub_id(&self) -> &HubId {
        &self.0.parts.hub_id
    }

    /// The settings under `[server]`.
    pub fn server(&self) -> &ServerConfig {
        &self.0.parts.server
    }

    /// The keys that are known.
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.0.parts.keys
    }

    /// What is open.
    pub fn open(&self) -> &Open {
        &self.0.parts.open
    }

    /// How much keys may make this hub keep.
    pub fn budgets(&self) -> &Budgets {
        &self.0.parts.budgets
    }

    /// Counters of requests and connections.
    pub fn metrics(&self) -> &Arc<EdgeMetrics> {
        &self.0.parts.metrics
    }

    /// The hub's tasks, and how far its end has come.
    pub fn scope(&self) -> &Scope {
        &self.0.parts.scope
    }

    /// The hasher that tells peers apart before anything is known of them; nobody outside can compute its results.
    pub(crate) fn sources(&self) -> &RandomState {
        &self.0.sources
    }

    /// A name for something open, unique on this hub.
    pub fn connection_id(&self) -> String {
        let number = self.0.connections.fetch_add(1, Ordering::Relaxed);
        format!("{}-c{number}", self.hub_id())
    }
}
