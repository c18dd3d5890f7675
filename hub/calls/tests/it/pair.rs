//! Two hubs of one Hub over a real Redis, with a real Postgres for the specifications.

use std::time::Duration;

use alkhub_config::{BudgetConfig, CallsConfig};
use alkhub_devdb::Server;
use alkhub_hub_cluster::{LinkState, PeerAddress, PeerSecret, PeerSetup};
use alkhub_test_support::{PATIENCE, Proxy, RedisServer, comes_to, until};
use serde_json::{Value, json};

use crate::fixture::{Dispatched, Hub, HubOptions, LEASE_TTL, Spoke, admin, request};

/// Two hubs, and what hubs share.
pub(crate) struct Pair {
    pub(crate) a: Hub,
    pub(crate) b: Hub,
    pub(crate) postgres: Server,
    pub(crate) redis: RedisServer,
}

/// How a pair differs from the usual one.
struct PairOptions {
    redis: RedisServer,
    /// Where hub B reaches Redis, if not directly.
    redis_of_b: Option<String>,
    calls: CallsConfig,
    /// What hub B keeps for its peers.
    budget_of_b: BudgetConfig,
    peers: [Option<PeerSetup>; 2],
    lease_ttl: Duration,
}

// === impl PairOptions ===

impl PairOptions {
    async fn new() -> Self {
        Self {
            redis: RedisServer::start().await,
            redis_of_b: None,
            calls: CallsConfig::default(),
            budget_of_b: BudgetConfig::default(),
            peers: [None, None],
            lease_ttl: LEASE_TTL,
        }
    }

    /// The same, but hub B reaches Redis through a proxy.
    async fn with_a_proxy() -> (Self, Proxy) {
        let options = Self::new().await;
        let (proxy, url) = options.redis.proxied().await.expect("a port");
        let redis_of_b = Some(url);
        (Self { redis_of_b, ..options }, proxy)
    }
}

// === impl Pair ===

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::of(PairOptions::new().await).await
    }

    pub(crate) async fn with(calls: CallsConfig) -> Self {
        let options = PairOptions::new().await;
        Self::of(PairOptions { calls, ..options }).await
    }

    /// A pair whose hubs can do without Redis for longer than any test takes it away.
    pub(crate) async fn with_long_leases() -> Self {
        let (lease_ttl, options) = (PATIENCE, PairOptions::new().await);
        Self::of(PairOptions { lease_ttl, ..options }).await
    }

    /// The same, and hub B keeps no more than this for its peers.
    pub(crate) async fn with_budget_on_b(budget_of_b: BudgetConfig) -> Self {
        let (lease_ttl, options) = (PATIENCE, PairOptions::new().await);
        Self::of(PairOptions {
            budget_of_b,
            lease_ttl,
            ..options
        })
        .await
    }

    /// A pair whose hub B reaches Redis through a proxy.
    pub(crate) async fn with_b_behind_a_proxy() -> (Self, Proxy) {
        let (options, proxy) = PairOptions::with_a_proxy().await;
        (Self::of(options).await, proxy)
    }

    /// A pair whose link from pod to pod is up, and the proxy through which hub A dials hub B.
    pub(crate) async fn linked() -> (Self, Proxy) {
        Self::linked_of(PairOptions::new().await).await
    }

    /// The same, with the proxy through which hub B reaches Redis as well.
    pub(crate) async fn linked_with_b_behind_a_proxy() -> (Self, [Proxy; 2]) {
        let (options, proxy) = PairOptions::with_a_proxy().await;
        let (pair, link) = Self::linked_of(options).await;
        (pair, [link, proxy])
    }

    async fn linked_of(options: PairOptions) -> (Self, Proxy) {
        let ((setup_a, _), (setup_b, link)) = (peers().await, peers().await);
        let peers = [Some(setup_a), Some(setup_b)];
        let pair = Self::of(PairOptions { peers, ..options }).await;
        for hub in [&pair.a, &pair.b] {
            until("the link from pod to pod is up", || async {
                match hub.metric("alkhub_peer_links") {
                    1.0 => Ok(()),
                    links => Err(links),
                }
            })
            .await;
        }
        (pair, link)
    }

    async fn of(options: PairOptions) -> Self {
        let PairOptions {
            redis,
            redis_of_b,
            calls,
            budget_of_b,
            peers: [peers_a, peers_b],
            lease_ttl,
        } = options;
        let redis_of_b = redis_of_b.unwrap_or_else(|| redis.url());
        let postgres = Server::temporary().await.expect("Postgres is installed");
        let start = |name, redis, budget, peers| {
            Hub::start(HubOptions {
                name,
                budget,
                redis: Some(redis),
                postgres: Some(postgres.url()),
                calls: calls.clone(),
                peers,
                lease_ttl,
                ..HubOptions::default()
            })
        };
        let (a, b) = (
            start("pod-a-a1", redis.url(), BudgetConfig::default(), peers_a).await,
            start("pod-b-b1", redis_of_b, budget_of_b, peers_b).await,
        );
        Self { a, b, postgres, redis }
    }

    /// Connects a spoke to hub B and waits until hub A can call it.
    pub(crate) async fn spoke_on_b(&self, operations: &[Value]) -> Spoke {
        let spoke = Spoke::connect(&self.b, "text", operations).await;
        sees(&self.a, "text.upper", spoke.output.generation).await;
        spoke
    }

    /// Calls an operation at hub A, once hub A knows who offers `known`, but before hub B has heard from Redis that it
    /// is entered; lets hub B hear that once it has the call.
    pub(crate) async fn call_early(&self, redis_of_b: &Proxy, known: &str, called: &str) -> Dispatched {
        let known = known.parse().expect("valid");
        until("hub A knows what is offered", || async {
            let offered = self.a.calls.operation(&admin(), &known);
            let offered = offered.filter(|info| !info.spokes.is_empty());
            offered.map(drop).ok_or("unknown")
        })
        .await;
        let before = self.b.metric("alkhub_relay_messages_total");
        let dispatched = self.a.dispatch(request(called, json!(1)));
        until("hub B has the call", || async {
            let passed = self.b.metric("alkhub_relay_messages_total");
            if passed > before { Ok(()) } else { Err(passed) }
        })
        .await;
        redis_of_b.heal();
        dispatched
    }

    /// Kills Redis with everything that it knew, and waits until both hubs have noticed.
    pub(crate) async fn lose_redis(&mut self) {
        self.redis.kill().await;
        for hub in [&self.a, &self.b] {
            let is_down = |state: &LinkState| matches!(state, LinkState::Down(_));
            comes_to("the link is down", &hub.link(), is_down).await;
        }
    }

    pub(crate) async fn end(self) {
        self.a.stop().await;
        self.b.stop().await;
        self.postgres.stop().await.expect("stops");
    }
}

/// What a hub needs to take the links of other hubs, and the proxy through which they dial it.
async fn peers() -> (PeerSetup, Proxy) {
    let (listener, proxy) = Proxy::with_listener().await.expect("two ports");
    let setup = PeerSetup {
        listener,
        address: PeerAddress {
            address: proxy.address(),
            tls: false,
        },
        secret: PeerSecret::new([1; 32]),
        tls: None,
        ping_interval: PeerSetup::PING_INTERVAL,
    };
    (setup, proxy)
}

/// Waits until a hub routes an operation to a registration.
pub(crate) async fn sees(hub: &Hub, name: &str, generation: u64) {
    let name = name.parse().expect("valid");
    until("the other hub to see the spoke", || async {
        let offered = hub
            .calls
            .operation(&admin(), &name)
            .is_some_and(|info| !info.spokes.is_empty());
        let generations: Vec<u64> = hub.calls.instances().iter().map(|(_, i, _)| i.generation).collect();
        let seen = format!("offered: {offered}, generations: {generations:?}, wanted {generation}");
        if offered && generations.contains(&generation) {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
}

pub(crate) async fn in_flight(hub: &Hub, wanted: usize) {
    until("calls in flight", async || match hub.calls.in_flight() {
        n if n == wanted => Ok(()),
        n => Err(format!("{n} in flight, wanted {wanted}")),
    })
    .await;
}
