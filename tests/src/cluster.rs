//! Hubs in this process, as the pods of one Hub: each a whole hub with its own listeners, on shared servers.

use std::path::PathBuf;
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_devdb::testing;
use alkhub_protocol::ApiKey;
use alkhub_server::Hub;
use alkhub_test_support::RedisServer;
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

    /// The settings that every hub of this cluster starts from.
    pub fn config(&self) -> HubConfig {
        let mut config = HubConfig::default();
        config.pod.name = format!("hub-{}", self.hubs.len());
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.server.management_listen = ([127, 0, 0, 1], 0).into();
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
