//! Two hubs of one Hub over a real Redis, with a real Postgres for the specifications.

use alkhub_config::{BudgetConfig, CallsConfig};
use alkhub_devdb::Server;
use alkhub_hub_cluster::LinkState;
use alkhub_test_support::{RedisServer, comes_to, until};
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
        let (redis, postgres) = tokio::join!(RedisServer::start(), Server::temporary());
        let postgres = postgres.expect("Postgres is installed");
        let start = |name, budget| {
            Hub::start(HubOptions {
                name,
                budget,
                redis: Some(redis.url()),
                postgres: Some(postgres.url()),
                calls: calls.clone(),
                ..HubOptions::default()
            })
        };
        let (a, b) = (
            start("pod-a-a1", BudgetConfig::default()).await,
            start("pod-b-b1", budget).await,
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
            comes_to("the link is down", &hub.cluster.link(), is_down).await;
        }
    }

    pub(crate) async fn end(self) {
        self.a.stop().await;
        self.b.stop().await;
        self.postgres.stop().await.expect("stops");
    }
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
