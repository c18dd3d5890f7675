//! One hub process: what it is made of and how it starts.
//!
//! [`Hub::start`] binds and spawns; whatever is remote is reached for in the background, and `/readyz` tells how far it
//! is. The main port listens when the hub can answer; the management port from the start. How it ends is in `drain`.

use std::net::SocketAddr;
use std::sync::Arc;

use alkhub_api::{Api, ApiParts};
use alkhub_budget::Budgets;
use alkhub_calls::Calls;
use alkhub_config::{AuthConfig, HubConfig, secret};
use alkhub_edge::auth::{FirstKey, InvalidFirstKey, KeyRing, KeyRingParts};
use alkhub_edge::listener::{self, Listener, ListenerLimits, tls};
use alkhub_edge::metrics::{ConnectionKind, EdgeMetrics};
use alkhub_edge::topics::queue_limits;
use alkhub_edge::{Edge, EdgeParts, Open, Scope};
use alkhub_events::Bus;
use alkhub_hub_cluster::Cluster;
use alkhub_protocol::{ApiKey, HubId};
use alkhub_redis::Connector;
use alkhub_store::{InvalidHashKey, KeyHasher, Store};
use alkhub_tasks::Supervisor;
use prometheus::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::app::{App, Inner};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::ws::Clock;
use crate::{background, router};

/// Connections to the management listener at once.
const MANAGEMENT_CONNECTIONS: usize = 256;

/// A running hub. Dropping it without [`Hub::shutdown`] ends its tasks at once.
#[derive(Debug)]
pub struct Hub {
    pub(crate) app: App,
    listen: SocketAddr,
    management: SocketAddr,
    pub(crate) ended: OnceCell<()>,
    _stop_on_drop: DropGuard,
}

/// Why a hub does not start. Redis or Postgres being away is none of these.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings contradict each other.
    #[error(transparent)]
    Settings(#[from] alkhub_config::Error),
    /// A listener's address cannot be bound.
    #[error("cannot listen on {address} (`{setting}`)")]
    Bind {
        /// The setting of the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// There is no secret to hash keys with.
    #[error("set `auth.hash-key-file` to a file with 64 hexadecimal digits: `openssl rand -hex 32`")]
    HashKeyMissing,
    /// A secret's file cannot be read.
    #[error(transparent)]
    Secret(#[from] secret::Error),
    /// The secret to hash keys with has another form.
    #[error("`auth.hash-key-file` is not valid")]
    HashKey(#[from] InvalidHashKey),
    /// The first admin key cannot be read, or is no key.
    #[error(transparent)]
    AdminKey(#[from] InvalidFirstKey),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Postgres cannot even be tried.
    #[error(transparent)]
    Store(#[from] alkhub_store::Error),
    /// Redis cannot even be tried.
    #[error(transparent)]
    Redis(#[from] alkhub_redis::SetupError),
    /// Two metrics have one name: a fault of alkhub's.
    #[error("metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
}

/// What is bound and read before anything runs.
struct Prepared {
    main: TcpSocket,
    management: TcpListener,
    tls: Option<tls::Acceptor>,
    hasher: KeyHasher,
    admin: Option<ApiKey>,
}

// === impl Hub ===

impl Hub {
    /// Starts a hub inside the current tokio runtime: both addresses are bound when this returns (port 0 takes a free
    /// one). Redis and Postgres are connected in the background, for as long as it takes; until then the main port
    /// refuses connections and the management port answers.
    ///
    /// # Errors
    /// [`StartError`] names the setting.
    pub fn start(config: HubConfig) -> Result<Self, StartError> {
        config.check()?;
        let prepared = Prepared::new(&config)?;
        let listen = local_address(prepared.main.local_addr(), "server.listen", config.server.listen)?;
        let management = local_address(
            prepared.management.local_addr(),
            "server.management-listen",
            config.server.management_listen,
        )?;
        let scope = Scope::default();
        let app = assemble(config, prepared.hasher, &scope)?;
        background::start(&app, prepared.admin);
        spawn_listeners(&app, prepared.main, prepared.management, prepared.tls);
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

    /// What the hub waits for or misses now, as in `/readyz`: `Postgres`, `Redis` or `the channel prefix`, each with the
    /// reason.
    pub fn away(&self) -> Vec<(&'static str, String)> {
        self.app.readiness.away()
    }

    /// Resolves when the hub cannot go on: a person must act (a newer database schema), or one of its loops is lost. One
    /// line says why. A binary ends with that line and a code that is not 0, after [`Hub::shutdown`] where somebody is
    /// connected.
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

    /// Watches over the loops of this hub; the loops of a program around it may be among them.
    pub fn supervisor(&self) -> &Supervisor {
        &self.app.edge.scope().supervisor
    }

    /// Open WebSockets.
    pub fn websockets(&self) -> usize {
        self.app.edge.open().count(ConnectionKind::Websocket)
    }
}

// === impl Prepared ===

impl Prepared {
    fn new(config: &HubConfig) -> Result<Self, StartError> {
        let unusable = |source| StartError::Bind {
            setting: "server.management-listen",
            address: config.server.management_listen,
            source,
        };
        let management = bind("server.management-listen", config.server.management_listen)?;
        Ok(Self {
            hasher: hasher(&config.auth)?,
            admin: FirstKey::read(&config.auth)?,
            tls: config.server.tls.as_ref().map(tls::acceptor).transpose()?,
            main: bind("server.listen", config.server.listen)?,
            management: listener::listen(management).map_err(unusable)?,
        })
    }
}

fn hasher(auth: &AuthConfig) -> Result<KeyHasher, StartError> {
    let file = auth.hash_key_file.as_deref().ok_or(StartError::HashKeyMissing)?;
    let secret = secret::read("auth.hash-key-file", file)?;
    Ok(KeyHasher::from_hex(auth.hash_key_id.as_str(), &secret)?)
}

fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpSocket, StartError> {
    listener::bind(address).map_err(|source| StartError::Bind {
        setting,
        address,
        source,
    })
}

fn local_address(
    bound: std::io::Result<SocketAddr>,
    setting: &'static str,
    address: SocketAddr,
) -> Result<SocketAddr, StartError> {
    bound.map_err(|source| StartError::Bind {
        setting,
        address,
        source,
    })
}

/// An address that a client on this host can use: a hub that listens everywhere is found on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        match &mut address {
            SocketAddr::V4(v4) => v4.set_ip(std::net::Ipv4Addr::LOCALHOST),
            SocketAddr::V6(v6) => v6.set_ip(std::net::Ipv6Addr::LOCALHOST),
        }
    }
    address
}

/// Makes the parts and what joins them.
fn assemble(config: HubConfig, hasher: KeyHasher, scope: &Scope) -> Result<App, StartError> {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry)?;
    let hub_id = hub_id(&config.pod.name);
    let store = Store::open(&config.store, &registry)?;
    scope.supervisor.register(&registry)?;
    let mut link = Connector::new(&config.events, &hub_id, &registry)?;
    let bus = Bus::new(&config.events, &mut link, &registry)?;
    let cluster = Cluster::start(&config.events, &mut link, &scope.supervisor, &registry)?;
    link.start(&scope.supervisor);
    let budgets = Budgets::new(&config.budget, &registry)?;
    let calls = Calls::start(alkhub_calls::Parts {
        config: config.calls.clone(),
        heartbeat: config.server.ping_interval,
        lease_ttl: config.events.lease_ttl,
        hub: hub_id.clone(),
        cluster: cluster.clone(),
        store: store.clone(),
        supervisor: scope.supervisor.clone(),
        registry: registry.clone(),
        budgets: budgets.clone(),
    })?;
    let edge_metrics = Arc::new(EdgeMetrics::new(&registry)?);
    let open = Open::default();
    let keys = KeyRing::new(KeyRingParts {
        store: store.clone(),
        cluster: cluster.clone(),
        open: open.clone(),
        hasher,
        auth: &config.auth,
        server: &config.server,
        metrics: edge_metrics.clone(),
    });
    let edge = Edge::new(EdgeParts {
        hub_id,
        server: config.server.clone(),
        keys: Arc::new(keys),
        open,
        budgets,
        metrics: edge_metrics,
        scope: scope.clone(),
    });
    let api = Api::new(ApiParts {
        edge: edge.clone(),
        calls: calls.clone(),
        store: store.clone(),
        bus: bus.clone(),
        cluster: cluster.clone(),
        channel_prefix: config.events.prefix.to_string(),
        event_limits: queue_limits(&config.events),
        subscription_items: config.calls.subscription_items,
        document: router::document,
    });
    Ok(App::new(Inner {
        readiness: Readiness::new(store.link(), cluster.link(), metrics.ready.clone()),
        edge,
        store,
        bus,
        cluster,
        calls,
        clock: Arc::new(Clock::new(&config.server)),
        metrics,
        registry,
        api,
        config,
    }))
}

/// `{pod}-{nonce}`; the host's name where there is no pod.
fn hub_id(pod: &str) -> HubId {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = if pod.is_empty() { host() } else { pod.to_owned() };
    let name: String = name.chars().filter(char::is_ascii_graphic).take(100).collect();
    let name = if name.is_empty() { "hub" } else { &name };
    let nonce: u32 = rand::random();
    format!("{name}-{nonce:08x}")
        .parse()
        .expect("at most 109 visible ASCII characters")
}

fn spawn_listeners(app: &App, main: TcpSocket, management: TcpListener, tls: Option<tls::Acceptor>) {
    let server = Arc::new(app.edge.server().clone());
    let scope = app.edge.scope();
    let management = Listener {
        socket: management,
        router: router::management(app),
        tls: None,
        limits: ListenerLimits {
            connections: MANAGEMENT_CONNECTIONS,
            per_address: None,
            server: server.clone(),
        },
        metrics: None,
        // Probes and scrapes are answered to the very end, so that "draining" can be seen.
        scope: Scope {
            drain: CancellationToken::new(),
            ..scope.clone()
        },
    };
    scope.supervisor.keep("server.management", management.serve());
    let limits = ListenerLimits {
        connections: server.max_connections,
        per_address: Some(server.max_connections_per_address),
        server,
    };
    let main = open_main(app.clone(), main, tls, limits);
    scope
        .supervisor
        .keep_until("server.listener", scope.drain.clone(), main);
}

/// Serves clients as soon as the hub can answer them.
async fn open_main(app: App, main: TcpSocket, tls: Option<tls::Acceptor>, limits: ListenerLimits) {
    let scope = app.edge.scope();
    tokio::select! {
        () = scope.drain.cancelled() => return,
        () = scope.stop.cancelled() => return,
        () = app.readiness.answerable() => {}
    }
    let socket = match listener::listen(main) {
        Ok(socket) => socket,
        Err(error) => {
            let address = app.edge.server().listen;
            return app
                .readiness
                .failed(format!("cannot listen on {address} (`server.listen`): {error}"));
        }
    };
    app.readiness.listening();
    let listener = Listener {
        socket,
        router: router::main(&app),
        tls,
        limits,
        metrics: Some(app.edge.metrics().clone()),
        scope: scope.clone(),
    };
    listener.serve().await;
}
