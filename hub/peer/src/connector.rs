//! A hub's side of the links between pods, before it starts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::HubId;
use alkhub_tasks::Supervisor;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::accept::{LinkAcceptor, Tls};
use crate::address::PeerAddress;
use crate::dial::Dialer;
use crate::links::{PeerLinks, Shared};
use crate::metrics::Metrics;
use crate::receiver::PeerReceiver;
use crate::secret::PeerSecret;
use crate::tls;

/// What a hub needs for its links with others.
pub struct PeerSetup {
    /// Where other hubs dial this hub.
    pub listener: TcpListener,
    /// The address that they are told to dial.
    pub address: PeerAddress,
    /// What the hubs of this Hub share.
    pub secret: PeerSecret,
    /// TLS for incoming connections, if the hub has it.
    pub tls: Option<TlsAcceptor>,
    /// How often a link is pinged; one that is silent for three pings is given up.
    pub ping_interval: Duration,
}

/// The links of a hub before they start.
pub struct PeerConnector {
    setup: PeerSetup,
    links: PeerLinks,
    dialing: TlsConnector,
    supervisor: Supervisor,
}

// === impl PeerSetup ===

impl PeerSetup {
    /// How often a link is pinged unless the caller says otherwise.
    pub const PING_INTERVAL: Duration = Duration::from_secs(2);
}

impl fmt::Debug for PeerSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSetup")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConnector")
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}

// === impl PeerConnector ===

impl PeerConnector {
    /// Creates the links of a hub, none of which is up.
    ///
    /// # Errors
    /// A metric is already registered.
    ///
    /// # Panics
    /// Never: the built-in crypto provider knows TLS 1.3.
    pub fn new(
        hub: &HubId,
        setup: PeerSetup,
        supervisor: &Supervisor,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let (secret, stop) = (setup.secret.clone(), supervisor.stop().clone());
        let shared = Shared::new(hub.clone(), secret, setup.ping_interval, stop, metrics);
        Ok(Self {
            setup,
            links: PeerLinks(Arc::new(shared)),
            dialing: tls::connector().expect("the provider knows TLS 1.3"),
            supervisor: supervisor.clone(),
        })
    }

    /// The handle to the links.
    pub fn links(&self) -> PeerLinks {
        self.links.clone()
    }

    /// The address that other hubs are told to dial.
    pub fn address(&self) -> PeerAddress {
        self.setup.address
    }

    /// Starts taking links and dialling; incoming messages go to the receiver.
    pub fn start(self, receiver: &Arc<dyn PeerReceiver>) {
        let supervisor = &self.supervisor;
        let acceptor = LinkAcceptor {
            shared: Arc::clone(&self.links.0),
            receiver: Arc::clone(receiver),
            tasks: supervisor.tasks().clone(),
            tls: self.setup.tls.map(Tls),
            logged: Mutex::default(),
        };
        supervisor.keep("peer.accept", acceptor.run(self.setup.listener));
        let dialer = Dialer {
            shared: self.links.0,
            receiver: Arc::clone(receiver),
            tasks: supervisor.tasks().clone(),
            tls: self.dialing,
        };
        supervisor.keep("peer.dial", dialer.run());
    }
}
