//! Hubs in this process, as the pods of one Hub: each a whole hub with its own listeners, on shared servers.

use std::path::PathBuf;
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_devdb::testing;
use alkhub_protocol::ApiKey;
use alkhub_server::Hub;
use alkhub_test_support::{Proxy, RedisServer, until};
use anyhow::{Context as _, Result};

/// Hubs that share a Redis and a database.
#[derive(Debug)]
pub struct Cluster {
    /// The hubs, in the order in which they were started.
    pub hubs: Vec<Hub>,
    /// Their Redis; `None` when events stay in process.
    pub redis: Option<RedisServer>,
    admin: ApiKey,
    folder: tempfile::TempDir,
    database_url: String,
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

    /// `count` hubs that know each other, with links from pod to pod or without.
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

    /// The same with links, where one of the hubs reaches Redis through a proxy.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn joined_behind_a_proxy(count: usize, of: usize) -> Result<(Self, Proxy)> {
        let redis = RedisServer::start().await;
        let (proxy, through) = redis.proxied().await?;
        let mut cluster = Self::empty(Some(redis)).await?;
        for hub in 0..count {
            let change = |config: &mut HubConfig| {
                listens(config, true);
                if hub == of {
                    config.events.redis_url = Some(through.as_str().into());
                }
            };
            cluster.add(change).await?;
        }
        cluster.know_each_other(true).await;
        Ok((cluster, proxy))
    }

    /// One hub with events in process, as `alkhub dev` runs it.
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
        let admin = ApiKey::from_entropy(entropy());
        std::fs::write(folder.path().join("hash.key"), hex(&entropy()))?;
        std::fs::write(folder.path().join("admin.key"), admin.expose())?;
        Ok(Self {
            hubs: Vec::new(),
            redis,
            admin,
            folder,
            database_url,
        })
    }

    /// Starts one more hub and waits until it is ready.
    ///
    /// # Errors
    /// The hub did not start, or is not ready within 20 s.
    pub async fn add(&mut self, change: impl FnOnce(&mut HubConfig)) -> Result<usize> {
        let hub = self.ready(change).await?;
        self.hubs.push(hub);
        Ok(self.hubs.len() - 1)
    }

    /// Starts a hub in the place of one that has ended, and waits until it is ready. It has another address.
    ///
    /// # Errors
    /// As [`Cluster::add`].
    pub async fn replace(&mut self, hub: usize, change: impl FnOnce(&mut HubConfig)) -> Result<()> {
        self.hubs[hub] = self.ready(change).await?;
        Ok(())
    }

    async fn ready(&self, change: impl FnOnce(&mut HubConfig)) -> Result<Hub> {
        let mut config = self.config();
        change(&mut config);
        let hub = Hub::start(config).context("a hub starts")?;
        tokio::time::timeout(Duration::from_secs(20), hub.ready())
            .await
            .context("a hub is ready within 20 s")?;
        Ok(hub)
    }

    /// Waits until each hub knows of all others, and has a link with each where there are links.
    async fn know_each_other(&self, linked: bool) {
        let count = self.hubs.len();
        for hub in 0..count {
            self.shows(hub, &format!("\nalkhub_events_hubs {count}\n")).await;
            if linked {
                self.shows(hub, &format!("\nalkhub_peer_links {}\n", count - 1)).await;
            }
        }
    }

    /// Waits until the metrics of a hub have this text, which begins with the end of a line.
    pub async fn shows(&self, hub: usize, line: &str) {
        let url = format!("{}/metrics", self.hubs[hub].management_url());
        until("the metrics show it", || async {
            let answer = reqwest::get(&url).await.map_err(|e| e.to_string())?;
            let text = answer.text().await.map_err(|e| e.to_string())?;
            if text.contains(line) {
                return Ok(());
            }
            let name = line.trim().split([' ', '{']).next().unwrap_or_default();
            let of_name = text.lines().filter(|line| line.starts_with(name));
            Err(of_name.collect::<Vec<_>>().join("\n"))
        })
        .await;
    }

    /// The settings that every hub of this cluster starts from.
    pub fn config(&self) -> HubConfig {
        let mut config = HubConfig::default();
        config.pod.name = format!("hub-{}", self.hubs.len());
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.server.management_listen = ([127, 0, 0, 1], 0).into();
        // A test says on which hub a peer is.
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

/// Where a hub takes links of others, if it does.
fn listens(config: &mut HubConfig, linked: bool) {
    config.server.peer_listen = linked.then(|| ([127, 0, 0, 1], 0).into());
}

fn entropy() -> [u8; 32] {
    let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(a.as_bytes());
    bytes[16..].copy_from_slice(b.as_bytes());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
