//! Hubs on a private Redis server, with the cluster and the bus on one link.

use std::time::Duration;

use alkhub_budget::Budgets;
use alkhub_config::{BudgetConfig, EventsConfig};
use alkhub_events::{Bus, Deliveries, Item, Limits, Mailbox, mailbox};
use alkhub_hub_cluster::{Cluster, DirectoryEntry, LinkState, PeerAddress, PeerSecret, PeerSetup};
use alkhub_protocol::{Envelope, HubId, RawJson, TopicFilter};
use alkhub_redis::Connector;
use alkhub_tasks::Supervisor;
use alkhub_test_support::{Host, Proxy, RedisServer, comes_to, until, within};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// One hub.
pub(crate) struct Pod {
    pub(crate) cluster: Cluster,
    pub(crate) bus: Bus,
    pub(crate) hub: HubId,
    pub(crate) host: Host,
}

/// Settings with times that suit a test.
pub(crate) fn config(server: &RedisServer) -> EventsConfig {
    EventsConfig {
        redis_url: Some(server.url().into()),
        timeout: Duration::from_secs(5),
        probe_interval: Duration::from_millis(250),
        lease_ttl: Duration::from_millis(1_500),
        lease_interval: Duration::from_millis(300),
        ..EventsConfig::default()
    }
}

// === impl Pod ===

impl Pod {
    /// A hub whose link is up.
    pub(crate) async fn up(server: &RedisServer, name: &str) -> Self {
        let pod = Self::start(&config(server), name);
        pod.is_up().await;
        pod
    }

    /// A hub that takes the links of others, and the proxy through which they dial it.
    pub(crate) async fn linked(config: &EventsConfig, name: &str) -> (Self, Proxy) {
        let (listener, proxy) = Proxy::with_listener().await.expect("two ports");
        let setup = PeerSetup {
            listener,
            address: PeerAddress {
                address: proxy.address(),
                tls: false,
            },
            secret: PeerSecret::new([1; 32]),
            tls: None,
            ping_interval: Duration::from_millis(200),
        };
        let pod = Self::start_with(config, name, Some(setup));
        pod.is_up().await;
        (pod, proxy)
    }

    pub(crate) fn start(config: &EventsConfig, name: &str) -> Self {
        Self::start_with(config, name, None)
    }

    fn start_with(config: &EventsConfig, name: &str, peers: Option<PeerSetup>) -> Self {
        let host = Host::default();
        let hub: HubId = name.parse().expect("a hub id");
        let supervisor = Supervisor::new(host.tasks.clone(), host.stop.clone());
        let mut connector = Connector::new(config, &hub, &host.registry).expect("settings");
        let bus = Bus::new(config, &mut connector, &host.registry).expect("fresh metrics");
        let budgets = Budgets::new(&BudgetConfig::default(), &host.registry).expect("fresh metrics");
        let counts = (&host.registry, &budgets);
        let cluster = Cluster::start(config, &mut connector, &supervisor, counts, peers);
        let cluster = cluster.expect("fresh metrics");
        connector.start(&supervisor);
        Self {
            cluster,
            bus,
            hub,
            host,
        }
    }

    /// The state of its link.
    pub(crate) fn link(&self) -> watch::Receiver<LinkState> {
        self.cluster.link().expect("there is Redis")
    }

    pub(crate) async fn is_up(&self) {
        comes_to("the link is up", &self.link(), LinkState::is_up).await;
    }

    pub(crate) async fn is_down(&self) {
        comes_to("the link is down", &self.link(), |state| {
            matches!(state, LinkState::Down(_))
        })
        .await;
    }

    /// Waits until this many links from pod to pod are up.
    pub(crate) async fn has_links(&self, links: f64) {
        until("the links are as they shall be", || async {
            match self.host.metric("alkhub_peer_links") {
                up if up == links => Ok(()),
                up => Err(up),
            }
        })
        .await;
    }

    /// Registers an instance that stays; returns its generation.
    pub(crate) async fn register(&self, entry: DirectoryEntry) -> u64 {
        let stays = CancellationToken::new();
        let registered = self.cluster.register_unless(&stays, entry).await;
        registered.expect("the hub runs")
    }

    pub(crate) async fn publish(&self, topic: &str, payload: u64) {
        let payload = RawJson::from_value(&payload).expect("a number");
        self.bus
            .publish(&topic.parse().expect("a topic"), Some(payload))
            .await
            .expect("Redis is up");
    }
}

/// The next item of a receiver.
pub(crate) async fn receive<T>(what: &str, receiver: &mut mpsc::Receiver<T>) -> T {
    within(what, receiver.recv()).await.expect("open")
}

/// The topic and number of the next item, which must be an event.
pub(crate) async fn event(deliveries: &mut Deliveries) -> (String, u64) {
    match within("an item", deliveries.next()).await.expect("the mailbox is open") {
        Item::Event(event) => {
            let envelope = Envelope::decode(event.text()).expect("an envelope");
            let payload = envelope.payload.expect("a payload");
            (event.topic.to_string(), payload.to().expect("a number"))
        }
        other => panic!("an event was expected: {other:?}"),
    }
}

pub(crate) fn large_mailbox() -> (Mailbox, Deliveries) {
    mailbox(Limits {
        items: 100_000,
        bytes: 256 * 1024 * 1024,
    })
}

pub(crate) fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a filter")
}
