//! The state that the sockets of one hub share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_balance::Membership;
use alkhub_calls::{Calls, SessionMessage};
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::{Edge, Key};
use alkhub_events::{Bus, Limits};
use alkhub_protocol::frame::session::ResumeRequest;
use alkhub_protocol::{CallError, HubId};
use axum::extract::FromRef;
use prometheus::Registry;
use tokio::sync::oneshot;

use crate::balancer::{Balancer, OpenSockets, Stance};
use crate::claims::Claims;
use crate::clock::Clock;
use crate::left::LeftSessions;
use crate::metrics::{Messages, ReturnTotals, SessionCounters};
use crate::resumable::{self, Claimed, ResumableSessions};
use crate::tunnel::Tunnels;

/// The state of this surface. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sockets(Arc<Shared>);

/// Work that an ending hub waits for, besides the calls in its own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// Sessions that come from other hubs, or may come, and what is left of those that went there. Calls of a session
    /// that has moved on from here may run on a third hub, which is reached through this one.
    pub sessions: usize,
    /// Calls of other hubs that run on peers of this one, or that its peers made there.
    pub calls: usize,
}

/// The arguments of [`Sockets::new`].
#[derive(Debug)]
pub struct SocketsParts {
    /// The state that all surfaces of the hub share.
    pub edge: Edge,
    /// Where calls go, and spokes register.
    pub calls: Calls,
    /// Events.
    pub bus: Bus,
    /// Bounds on what may wait for one socket's topics.
    pub event_limits: Limits,
    /// The registry for the metrics.
    pub registry: Registry,
}

#[derive(Debug)]
struct Shared {
    parts: SocketsParts,
    messages: Messages,
    sessions: SessionCounters,
    resumable: ResumableSessions,
    claims: Claims,
    tunnels: Tunnels,
    left: LeftSessions,
    clock: Arc<Clock>,
    balancer: Balancer,
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
            sessions: SessionCounters::new(&parts.registry)?,
            resumable: ResumableSessions::default(),
            balancer: Balancer::new(&parts.registry)?,
            claims: Claims::default(),
            tunnels: Tunnels::default(),
            left: LeftSessions::default(),
            clock: Arc::new(Clock::new(parts.edge.server())),
            parts,
        })))
    }

    /// Pings sockets, and ends those that have run out of time, until the hub stops.
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

    pub(crate) fn sessions(&self) -> &SessionCounters {
        &self.0.sessions
    }

    /// What became of sessions that had lost their connection.
    pub fn returns(&self) -> ReturnTotals {
        self.0.sessions.returns()
    }

    /// The sessions that peers can come back to.
    pub(crate) fn resumable(&self) -> &ResumableSessions {
        &self.0.resumable
    }

    /// Asks for a session, here and on the other hubs: it comes soon, or the sender is dropped if it has ended.
    ///
    /// # Errors
    /// No hub can have it, or the peer cannot go on with it.
    pub(crate) fn claim(
        &self,
        request: &ResumeRequest,
        key: &Arc<Key>,
    ) -> Result<oneshot::Receiver<Claimed>, CallError> {
        let digest = resumable::digest(&request.session_id);
        let here = self.resumable().claim(&digest, request.received, &key.id, None)?;
        let elsewhere = || self.claims().ask(self.calls().moves(), request, key);
        here.or_else(elsewhere).ok_or_else(resumable::ended)
    }

    /// The claims to the other hubs.
    pub(crate) fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// The tunnels to the hubs that sessions of this one have left.
    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.0.tunnels
    }

    /// The sessions that have left this hub, and still run calls here.
    pub(crate) fn left(&self) -> &LeftSessions {
        &self.0.left
    }

    /// Work that goes on here for other hubs, or with them.
    pub fn passing(&self) -> Passing {
        // In this order: what is coming is counted until its calls are.
        let sessions = self.claims().coming() + self.left().len();
        Passing {
            sessions,
            calls: self.tunnels().running(),
        }
    }

    /// Sends a message to another hub; if too much waits for that hub, it is lost together with the conduit.
    pub(crate) fn say(&self, to: &HubId, message: SessionMessage) {
        if self.calls().moves().say(to, message).is_err() {
            tracing::warn!(hub.id = %to, "too much waits for another hub");
        }
    }

    pub(crate) fn clock(&self) -> &Arc<Clock> {
        &self.0.clock
    }

    /// The time on the clock of [`Membership::read_at`] and [`Membership::rebalance`].
    pub fn balance_time(&self) -> Duration {
        self.0.balancer.now()
    }

    /// Notes where each hub is reached by peers in the cluster, by its id, as the hub has published that.
    pub fn hubs_are_at(&self, urls: HashMap<Arc<str>, String>) {
        self.0.balancer.hubs_are_at(urls);
    }

    /// Looks at what all hubs hold, once a second, and lets peers go that are better off elsewhere; all of them while
    /// the hub drains. Those that were let go stay when it drains no more. Without `server.rebalance`, no peer is let
    /// go for the sake of balance, and none is refused for it.
    pub fn rebalance(&self, membership: &Membership, draining: bool) {
        let (edge, balancer) = (self.edge(), &self.0.balancer);
        let beside = |session: &str| self.calls().beside(session);
        let open = OpenSockets {
            count: edge.open().count(ConnectionKind::Websocket),
            all: &|| edge.open().of(ConnectionKind::Websocket),
        };
        let stance = Stance {
            balances: edge.server().rebalance,
            draining,
        };
        balancer.look(&open, membership, stance, beside);
    }

    /// Where the peer of a session is to go because this hub is ending: the URL of a hub that the rule of balance
    /// chooses; `None` if it is not known what the others hold, or where they are.
    pub fn refuge(&self, session: &str) -> Option<String> {
        self.0.balancer.refuge(self.calls().beside(session).as_ref())
    }

    /// Decides which peers this hub keeps.
    pub(crate) fn balancer(&self) -> &Balancer {
        &self.0.balancer
    }
}

// === impl Passing ===

impl Passing {
    /// Whether there is no such work.
    pub fn is_none(self) -> bool {
        let Self { sessions, calls } = self;
        sessions == 0 && calls == 0
    }
}

impl FromRef<Sockets> for Edge {
    fn from_ref(sockets: &Sockets) -> Self {
        sockets.edge().clone()
    }
}
