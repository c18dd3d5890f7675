//! Two hubs of one Hub over a real Redis, with a real Postgres for the specifications.

use alkhub_config::{BudgetConfig, CallsConfig};
use alkhub_devdb::Server;
use alkhub_hub_cluster::{LinkState, PeerAddress, PeerSecret, PeerSetup};
use alkhub_test_support::{Proxy, RedisServer, comes_to, until};
use serde_json::Value;

use crate::fixture::{Hub, HubOptions, Spoke, admin};

/// Two hubs that share what hubs share.
pub(crate) struct Pair {
    pub(crate) a: Hub,
    pub(crate) b: Hub,
    pub(crate) postgres: Server,
    pub(crate) redis: RedisServer,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::with(CallsConfig::default()).await
    }

    pub(crate) async fn with(calls: CallsConfig) -> Self {
        Self::with_budget_on_b(calls, BudgetConfig::default()).await
    }

    /// A pair whose hub B keeps no more than this for its peers.
    pub(crate) async fn with_budget_on_b(calls: CallsConfig, budget: BudgetConfig) -> Self {
        let redis = RedisServer::start().await;
        let url = redis.url();
        Self::of((redis, url), calls, budget, [None, None]).await
    }

    /// A pair whose hub B reaches Redis through a proxy.
    pub(crate) async fn with_b_behind_a_proxy() -> (Self, Proxy) {
        let redis = RedisServer::start().await;
        let (proxy, url) = redis.proxied().await.expect("a port");
        let pair = Self::of(
            (redis, url),
            CallsConfig::default(),
            BudgetConfig::default(),
            [None, None],
        );
        (pair.await, proxy)
    }

    /// A pair with a link from pod to pod that is up, and the proxy through which hub A dials hub B.
    pub(crate) async fn linked() -> (Self, Proxy) {
        let ((setup_a, _), (setup_b, link)) = (peers().await, peers().await);
        let peers = [Some(setup_a), Some(setup_b)];
        let redis = RedisServer::start().await;
        let url = redis.url();
        let pair = Self::of((redis, url), CallsConfig::default(), BudgetConfig::default(), peers).await;
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

    /// On one Redis, which hub B reaches at an address of its own.
    async fn of(
        (redis, redis_of_b): (RedisServer, String),
        calls: CallsConfig,
        budget: BudgetConfig,
        [peers_a, peers_b]: [Option<PeerSetup>; 2],
    ) -> Self {
        let postgres = Server::temporary().await.expect("Postgres is installed");
        let start = |name, redis, budget, peers| {
            Hub::start(HubOptions {
                name,
                budget,
                redis: Some(redis),
                postgres: Some(postgres.url()),
                calls: calls.clone(),
                peers,
                ..HubOptions::default()
            })
        };
        let (a, b) = (
            start("pod-a-a1", redis.url(), BudgetConfig::default(), peers_a).await,
            start("pod-b-b1", redis_of_b, budget, peers_b).await,
        );
        Self { a, b, postgres, redis }
    }

    /// Connects a spoke to hub B and waits until hub A can call it.
    pub(crate) async fn spoke_on_b(&self, operations: &[Value]) -> Spoke {
        let spoke = Spoke::connect(&self.b, "text", operations).await;
        sees(&self.a, "text.upper", spoke.output.generation).await;
        spoke
    }

    /// Ends Redis with everything that it knew; both hubs know it then.
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

/// What a hub needs to take links of others, who dial it through this proxy.
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
