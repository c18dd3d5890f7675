//! Puts the parts together: one link, one bus, one cluster.

use std::sync::Arc;

use alkhub_config::EventsConfig;
use alkhub_protocol::HubId;
use alkhub_tasks::Supervisor;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};

use crate::bus::Table;
use crate::channel::Names;
use crate::cluster::{self, Cluster};
use crate::metrics::Metrics;
use crate::target::Target;
use crate::target::local::Local;
use crate::target::redis::{self, Redis};
use crate::{Bus, Error};

/// Relayed messages that came back and wait for their reader.
const UNDELIVERABLE: usize = 4_096;

/// The event fabric of one hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fabric {
    bus: Bus,
    cluster: Cluster,
}

/// How the link to Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is no Redis: events stay in this process.
    Local,
    /// It works: everything is subscribed, and a message to oneself came back.
    Up,
    /// It does not; the text says why.
    Down(String),
}

// === impl Fabric ===

impl Fabric {
    /// Starts the fabric and returns at once; the link to Redis comes up in the background and keeps trying. The
    /// supervisor watches over its loops; when they are asked to stop, the lease is given back, then the connections close.
    ///
    /// # Errors
    /// The URL or the file of authorities cannot be used, or a metric is registered already. That Redis is away is no
    /// error.
    pub fn start(
        config: &EventsConfig,
        hub: &HubId,
        supervisor: &Supervisor,
        registry: &Registry,
    ) -> Result<Self, Error> {
        let url = config.redis()?;
        let metrics = Metrics::register(registry, url.is_some())?;
        let table = Arc::new(Table::new(config.waiting_bytes));
        let names = Arc::new(Names::new(&config.prefix, hub));
        let undeliverable = mpsc::channel(UNDELIVERABLE);
        let redis = match url {
            None => None,
            Some(url) => Some(Redis::new(redis::Parts {
                config,
                hub,
                names: names.clone(),
                table: table.clone(),
                client: redis::client(&url, config.redis_ca_file.as_deref())?,
                metrics: metrics.clone(),
                undeliverable: undeliverable.0.clone(),
            })),
        };
        let (redis, runner) = redis.unzip();
        let parts = cluster::Parts {
            config,
            hub,
            names,
            redis: redis.clone(),
            metrics: metrics.clone(),
            undeliverable,
        };
        let (cluster, routes) = cluster::start(parts, supervisor);
        if let Some(runner) = runner {
            runner.start(routes, supervisor);
        }
        let target = redis.map_or(Target::Local(Local), Target::Redis);
        Ok(Self {
            bus: Bus::new(table, target, metrics),
            cluster,
        })
    }

    /// Events.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The other hubs.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// How the link to Redis is, now and later.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.cluster.link()
    }
}
