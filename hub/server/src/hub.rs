//! One hub process, and how it starts.
//!
//! [`Hub::start`] binds and spawns; everything remote is connected in the background, and `/readyz` shows the progress.
//! The main port listens once the hub can answer; the management port, from the start. `drain` describes how it ends.

use std::net::SocketAddr;

use alkhub_calls::Calls;
use alkhub_config::HubConfig;
use alkhub_edge::Scope;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_protocol::HubId;
use alkhub_store::Store;
use alkhub_tasks::Supervisor;
use tokio::sync::OnceCell;
use tokio_util::sync::DropGuard;

use crate::app::App;
use crate::assemble::assemble;
use crate::preparation::Preparation;
use crate::start_error::StartError;
use crate::{background, listeners};

/// A running hub. Dropping it without [`Hub::shutdown`] ends its tasks at once.
#[derive(Debug)]
pub struct Hub {
    pub(crate) app: App,
    listen: SocketAddr,
    management: SocketAddr,
    pub(crate) ended: OnceCell<()>,
    _stop_on_drop: DropGuard,
}

// === impl Hub ===

impl Hub {
    /// Starts a hub inside the current tokio runtime: both addresses are bound when this returns (port 0 takes a free
    /// one). Redis and Postgres are connected in the background, for as long as that takes; until then the main port
    /// refuses connections and the management port answers.
    ///
    /// # Errors
    /// [`StartError`] names the setting.
    pub fn start(config: HubConfig) -> Result<Self, StartError> {
        config.check()?;
        let prepared = Preparation::new(&config)?;
        let (listen, management) = prepared.addresses(&config.server)?;
        let scope = Scope::default();
        let app = assemble(config, (prepared.hasher, prepared.peers), &scope)?;
        background::start(&app, prepared.admin);
        listeners::start(&app, prepared.main, prepared.management, prepared.tls);
        tracing::info!(hub.id = %app.edge.hub_id(), %listen, %management, "the hub starts");
        Ok(Self {
            app,
            listen,
            management,
            ended: OnceCell::new(),
            _stop_on_drop: scope.stop.drop_guard(),
        })
    }

    /// `http://address:port` (or `https`) of the main listener.
    pub fn url(&self) -> String {
        let scheme = if self.app.edge.server().tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", reachable(self.listen))
    }

    /// `http://address:port` of the management listener.
    pub fn management_url(&self) -> String {
        format!("http://{}", reachable(self.management))
    }

    /// The process's id, unique over restarts.
    pub fn hub_id(&self) -> &HubId {
        self.app.edge.hub_id()
    }

    /// Resolves when `/readyz` answers 200 for the first time.
    pub async fn ready(&self) {
        self.app.readiness.ready().await;
    }

    /// What the hub is waiting for or lacks now, as in `/readyz`: `Postgres`, `Redis` or `the channel prefix`, each
    /// with the reason.
    pub fn away(&self) -> Vec<(&'static str, String)> {
        self.app.readiness.away()
    }

    /// Resolves, with a line that says why, when the hub cannot go on: a person must act (a newer database schema), or
    /// one of its loops is lost. A program then ends with that line and a nonzero exit code, after [`Hub::shutdown`] if
    /// anybody is connected.
    pub async fn failed(&self) -> String {
        self.app.readiness.fatal().await
    }

    /// The calls of this hub.
    pub fn calls(&self) -> &Calls {
        &self.app.calls
    }

    /// The store of this hub.
    pub fn store(&self) -> &Store {
        &self.app.store
    }

    /// Watches over the loops of this hub; a program around the hub may add its own loops.
    pub fn supervisor(&self) -> &Supervisor {
        &self.app.edge.scope().supervisor
    }

    /// Open WebSockets.
    pub fn websockets(&self) -> usize {
        self.app.edge.open().count(ConnectionKind::Websocket)
    }
}

/// An address that a client on this host can use: a hub that listens on all addresses is reached over loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        match &mut address {
            SocketAddr::V4(v4) => v4.set_ip(std::net::Ipv4Addr::LOCALHOST),
            SocketAddr::V6(v6) => v6.set_ip(std::net::Ipv6Addr::LOCALHOST),
        }
    }
    address
}
