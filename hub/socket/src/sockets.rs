//! What the sockets of one hub have.

use std::sync::Arc;

use alkhub_calls::Calls;
use alkhub_edge::Edge;
use alkhub_events::{Bus, Limits};
use axum::extract::FromRef;
use prometheus::Registry;

use crate::clock::Clock;
use crate::metrics::Messages;

/// The state of this surface. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sockets(Arc<Shared>);

/// What [`Sockets::new`] needs.
#[derive(Debug)]
pub struct SocketsParts {
    /// What all surfaces of the hub share.
    pub edge: Edge,
    /// Where calls go, and spokes register.
    pub calls: Calls,
    /// Events.
    pub bus: Bus,
    /// What may wait for one socket's topics.
    pub event_limits: Limits,
    /// Takes the metrics.
    pub registry: Registry,
}

#[derive(Debug)]
struct Shared {
    parts: SocketsParts,
    messages: Messages,
    clock: Arc<Clock>,
}

// === impl Sockets ===

impl Sockets {
    /// The surface of one hub.
    ///
    /// # Errors
    /// The registry has the metrics already.
    pub fn new(parts: SocketsParts) -> Result<Self, prometheus::Error> {
        Ok(Self(Arc::new(Shared {
            messages: Messages::new(&parts.registry)?,
            clock: Arc::new(Clock::new(parts.edge.server())),
            parts,
        })))
    }

    /// Pings sockets, and ends those whose time is over, until the hub stops.
    pub async fn beat(self) {
        let edge = self.edge();
        self.clock().run(edge.open(), &edge.scope().stop).await;
    }

    pub(crate) fn edge(&self) -> &Edge {
        &self.0.parts.edge
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.0.parts.calls
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.0.parts.bus
    }

    pub(crate) fn event_limits(&self) -> Limits {
        self.0.parts.event_limits
    }

    pub(crate) fn messages(&self) -> &Messages {
        &self.0.messages
    }

    pub(crate) fn clock(&self) -> &Arc<Clock> {
        &self.0.clock
    }
}

impl FromRef<Sockets> for Edge {
    fn from_ref(sockets: &Sockets) -> Self {
        sockets.edge().clone()
    }
}
