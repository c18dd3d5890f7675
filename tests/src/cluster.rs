//! Hubs in this process, in the role of the pods of one Hub: each a whole hub with its own listeners, on shared
//! servers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_devdb::testing;
use alkhub_protocol::ApiKey;
use alkhub_server::Hub;
use alkhub_test_support::{Proxy, RedisServer, try_until_within, until};
use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::keys;

/// Gauges of what exists for a peer, a call or a message, and must disappear with it.
const LEFT: [&str; 11] = [
    "alkhub_budget_bytes{",
    "alkhub_calls_in_flight ",
    "alkhub_conduit_unacknowledged_bytes ",
    "alkhub_connections{kind=\"left\"}",
    "alkhub_connections{kind=\"reconnecting\"}",
    "alkhub_connections{kind=\"sse\"}",
    "alkhub_connections{kind=\"websocket\"}",
    "alkhub_events_subscriptions ",
    "alkhub_spoke_instances_known ",
    "alkhub_spokes_connected ",
    "alkhub_spokes_reconnecting ",
];

/// Hubs that share a Redis and a database.
#[derive(Debug)]
pub struct Cluster {
    /// The hubs, in the order in which they were started.
    pub hubs: Vec<Arc<Hub>>,
    /// Their Redis; `None` if events stay in process.
    pub redis: Option<RedisServer>,
    admin: ApiKey,
    folder: tempfile::TempDir,
    database_url: String,
    management: reqwest::Client,
}

// === impl Cluster ===

impl Cluster {
    /// `count` hubs on a Redis and a database of their own, all ready.
    ///
    /// # Errors
    /// A server or a hub did not start.
    pub async fn start(count: usize) -> Result<Self> {
        let redis = RedisServer::start().await;
        let mut cluster = Self::empty(Some(redis)).await?;
        for _ in 0..count {
            cluster.add(|_| {}).await?;
        }
        Ok(cluster)
    }

    /// `count` hubs that know each other, with or without links from pod to pod.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn joined(count: usize, linked: bool) -> Result<Self> {
        let mut cluster = Self::empty(Some(RedisServer::start().await)).await?;
        for _ in 0..count {
            cluster.add(|config| listens(config, linked)).await?;
        }
        cluster.know_each_other(linked).await;
        Ok(cluster)
    }

    /// The same, with one of the hubs reaching Redis through a proxy.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn joined_behind_a_proxy(count: usize, linked: bool, of: usize) -> Result<(Self, Proxy)> {
        let redis = RedisServer::start().await;
        let (proxy, through) = redis.proxied().await?;
        let mut cluster = Self::empty(Some(redis)).await?;
        for hub in 0..count {
            let change = |config: &mut HubConfig| {
                listens(config, linked);
                if hub == of {
                    config.events.redis_url = Some(through.as_str().into());
                }
            };
            cluster.add(change).await?;
        }
        cluster.know_each_other(linked).await;
        Ok((cluster, proxy))
    }

    /// One hub with in-process events, as `alkhub dev` runs it.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn single() -> Result<Self> {
        let mut cluster = Self::empty(None).await?;
        cluster.add(|_| {}).await?;
        Ok(cluster)
    }

    /// No hub yet: [`Cluster::add`] starts them with settings of the test's own.
    ///
    /// # Errors
    /// A server did not start.
    pub async fn empty(redis: Option<RedisServer>) -> Result<Self> {
        let database_url = testing::database().await;
        let folder = tempfile::tempdir()?;
        Ok(Self {
            hubs: Vec::new(),
            redis,
            admin: keys::write(folder.path())?,
            folder,
            database_url,
            management: reqwest::Client::new(),
        })
    }

    /// Starts one more hub and waits until it is ready.
    ///
    /// # Errors
    /// The hub did not start, or is not ready within 20 s.
    pub async fn add(&mut self, change: impl FnOnce(&mut HubConfig)) -> Result<usize> {
        let hub = self.ready(change).await?;
        self.hubs.push(Arc::new(hub));
        Ok(self.hubs.len() - 1)
    }

    /// Starts a hub in place of one that has ended, and waits until it is ready. It has another address.
    ///
    /// # Errors
    /// As [`Cluster::add`].
    pub async fn replace(&mut self, hub: usize, change: impl FnOnce(&mut HubConfig)) -> Result<()> {
        self.hubs[hub] = Arc::new(self.ready(change).await?);
        Ok(())
    }

    async fn ready(&self, change: impl FnOnce(&mut HubConfig)) -> Result<Hub> {
        let mut config = self.config();
        change(&mut config);
        let hub = Hub::start(config).context("a hub starts")?;
        tokio::time::timeout(Duration::from_secs(20), hub.ready())
            .await
            .with_context(|| format!("a hub is ready within 20 s; it waits for {:?}", hub.away()))?;
        Ok(hub)
    }

    /// Waits until each hub knows of all others, and has a link with each if there are links.
    pub async fn know_each_other(&self, linked: bool) {
        let count = self.hubs.len();
        for hub in 0..count {
            self.shows(hub, &format!("\nalkhub_events_hubs {count}\n")).await;
            if linked {
                self.shows(hub, &format!("\nalkhub_peer_links {}\n", count - 1)).await;
            }
        }
    }

    /// Waits until the metrics of a hub contain this text, which begins with the end of a line.
    pub async fn shows(&self, hub: usize, line: &str) {
        until("the metrics show it", || async {
            let text = self.managed(hub, "/metrics").await?;
            if text.contains(line) {
                return Ok(());
            }
            let name = line.trim().split([' ', '{']).next().unwrap_or_default();
            let of_name = text.lines().filter(|line| line.starts_with(name));
            Err(of_name.collect::<Vec<_>>().join("\n"))
        })
        .await;
    }

    /// Waits until a hub reports this state of its link to Redis (`up`, `down`), no longer than `limit`.
    ///
    /// # Errors
    /// It does not; returns what it reported last.
    pub async fn redis_is(&self, hub: usize, wanted: &str, limit: Duration) -> Result<(), String> {
        let what = format!("the link of hub {hub} to Redis is {wanted}");
        try_until_within(&what, limit, || async {
            let body = self.managed(hub, "/readyz").await?;
            let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            if body["redis"]["state"] == wanted {
                Ok(())
            } else {
                Err(body.to_string())
            }
        })
        .await
    }

    /// Waits until nothing is left on a hub, no longer than `limit`: no call, no instance, no session, no subscription,
    /// no socket, not a byte kept for anybody.
    ///
    /// # Errors
    /// Something is left; returns its gauges.
    pub async fn is_idle(&self, hub: usize, limit: Duration) -> Result<(), String> {
        try_until_within(&format!("hub {hub} is idle"), limit, || async {
            let metrics = self.managed(hub, "/metrics").await?;
            let missing = LEFT.iter().find(|gauge| !metrics.contains(&format!("\n{gauge}")));
            let is_left = |line: &&str| LEFT.iter().any(|gauge| line.starts_with(gauge)) && !line.ends_with(" 0");
            let left: Vec<&str> = metrics.lines().filter(is_left).collect();
            match missing {
                Some(gauge) => Err(format!("there is no {gauge}")),
                None if left.is_empty() => Ok(()),
                None => Err(left.join(", ")),
            }
        })
        .await
    }

    /// What the management listener of a hub answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn managed(&self, hub: usize, path: &str) -> Result<String, String> {
        let url = format!("{}{path}", self.hubs[hub].management_url());
        let answer = self.management.get(url).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        answer.text().await.map_err(|error| error.to_string())
    }

    /// The settings that every hub of this cluster starts from.
    pub fn config(&self) -> HubConfig {
        let mut config = HubConfig::default();
        config.pod.name = format!("hub-{}", self.hubs.len());
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.server.management_listen = ([127, 0, 0, 1], 0).into();
        // A test decides which hub a peer is on.
        config.server.rebalance = false;
        config.auth.hash_key_file = Some(self.path("hash.key"));
        config.auth.admin_key_file = Some(self.path("admin.key"));
        config.events.redis_url = self.redis.as_ref().map(|redis| redis.url().into());
        config.store.database_url = Some(self.database_url.clone().into());
        config.store.max_connections = 4;
        config
    }

    /// The URL of one hub.
    pub fn url(&self, hub: usize) -> String {
        self.hubs[hub].url()
    }

    /// The key with every scope of alkhub's own.
    pub fn admin(&self) -> &str {
        self.admin.expose()
    }

    /// Ends every hub as SIGTERM would.
    pub async fn shutdown(self) {
        for hub in self.hubs {
            hub.shutdown().await;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Sets where a hub takes links of others, if it does.
fn listens(config: &mut HubConfig, linked: bool) {
    config.server.peer_listen = linked.then(|| ([127, 0, 0, 1], 0).into());
}
