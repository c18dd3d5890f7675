//! Creates the parts of a hub and connects them: the domain, the edge, and each surface with what it needs.

use std::sync::Arc;

use alkhub_api::{Api, ApiParts};
use alkhub_budget::Budgets;
use alkhub_calls::Calls;
use alkhub_config::HubConfig;
use alkhub_edge::auth::{KeyRing, KeyRingParts};
use alkhub_edge::metrics::EdgeMetrics;
use alkhub_edge::topics::queue_limits;
use alkhub_edge::{Edge, EdgeParts, Open, Scope};
use alkhub_events::Bus;
use alkhub_hub_cluster::{Cluster, PeerSetup};
use alkhub_protocol::HubId;
use alkhub_redis::Connector;
use alkhub_socket::{Sockets, SocketsParts};
use alkhub_store::{KeyHasher, Store};
use prometheus::Registry;

use crate::app::{App, Inner};
use crate::marked::Marked;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::router;
use crate::start_error::StartError;

/// The domain behind the surfaces.
struct Domain {
    store: Store,
    bus: Bus,
    cluster: Cluster,
    calls: Calls,
}

/// Creates the parts and connects them.
pub(crate) fn assemble(
    config: HubConfig,
    (hasher, peers): (KeyHasher, Option<PeerSetup>),
    scope: &Scope,
) -> Result<App, StartError> {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry)?;
    let hub_id = hub_id(&config.pod.name);
    let store = Store::open(&config.store, &registry)?;
    scope.supervisor.register(&registry)?;
    let mut link = Connector::new(&config.events, &hub_id, &registry)?;
    let bus = Bus::new(&config.events, &mut link, &registry)?;
    let budgets = Budgets::new(&config.budget, &registry)?;
    let counts = (&registry, &budgets);
    let cluster = Cluster::start(&config.events, &mut link, &scope.supervisor, counts, peers)?;
    link.start(&scope.supervisor);
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
    let domain = Domain {
        store,
        bus,
        cluster,
        calls,
    };
    Ok(App::new(Inner {
        readiness: Readiness::new(domain.store.link(), domain.cluster.link(), metrics.ready.clone()),
        api: api(&config, &edge, &domain),
        sockets: sockets(&config, &edge, &domain, &registry)?,
        edge,
        store: domain.store,
        cluster: domain.cluster,
        calls: domain.calls,
        registry,
        config,
        marked: Marked::default(),
    }))
}

fn api(config: &HubConfig, edge: &Edge, domain: &Domain) -> Api {
    Api::new(ApiParts {
        edge: edge.clone(),
        calls: domain.calls.clone(),
        store: domain.store.clone(),
        bus: domain.bus.clone(),
        cluster: domain.cluster.clone(),
        channel_prefix: config.events.prefix.to_string(),
        event_limits: queue_limits(&config.events),
        subscription_items: config.calls.subscription_items,
        document: router::document,
    })
}

fn sockets(
    config: &HubConfig,
    edge: &Edge,
    domain: &Domain,
    registry: &Registry,
) -> Result<Sockets, prometheus::Error> {
    Sockets::new(SocketsParts {
        edge: edge.clone(),
        calls: domain.calls.clone(),
        bus: domain.bus.clone(),
        event_limits: queue_limits(&config.events),
        registry: registry.clone(),
    })
}

/// `{pod}-{nonce}`; the host's name if there is no pod.
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
