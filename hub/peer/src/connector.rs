//! A hub's part in the links between pods, before it starts.

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

/// What a hub needs for links with others.
pub struct PeerSetup {
    /// Where others dial this hub.
    pub listener: TcpListener,
    /// What they are told to dial.
    pub address: PeerAddress,
    /// What the hubs of this Hub share.
    pub secret: PeerSecret,
    /// TLS for those who dial, where the hub has it.
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
    /// How often a link is pinged where nothing else is said.
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
    /// The links of a hub, none of which is up.
    ///
    /// # Errors
    /// A metric is registered already.
    ///
    /// # Panics
    /// Never: the crypto provider of the house knows TLS 1.3.
    pub fn new(
        hub: &HubId,
        setup: PeerSetup,
        supervisor: &Supervisor,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let proves = (setup.secret.clone(), setup.ping_interval);
        let shared = Shared::new(hub.clone(), proves, supervisor.stop().clone(), metrics);
        Ok(Self {
            setup,
            links: PeerLinks(Arc::new(shared)),
            dialing: tls::connector().expect("the provider knows TLS 1.3"),
            supervisor: supervisor.clone(),
        })
    }

    /// The handle.
    pub fn links(&self) -> PeerLinks {
        self.links.clone()
    }

    /// What others are told to dial.
    pub fn address(&self) -> PeerAddress {
        self.setup.address
    }

    /// Starts to take links and to dial; what comes goes to the receiver.
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
