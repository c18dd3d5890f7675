//! Three hubs that many runs share. Their links to Redis and to each other go through proxies, and so do the
//! connections of spokes and callers, so that each of them can be made to fail.

use std::sync::Arc;
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_test_support::Proxy;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::links::Links;
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::schedule::{Fault, HUBS};

/// The longest wait for what must come, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a hub keeps the session of a peer that is away.
const RESUME: Duration = Duration::from_secs(2);

/// The hubs.
#[derive(Debug)]
pub(crate) struct World {
    cluster: Cluster,
    links: Vec<Links>,
    /// The tasks that end hubs that are away.
    ending: Vec<Option<JoinHandle<()>>>,
    places: Arc<Places>,
    tasks: TaskTracker,
}

/// Where callers can reach the hubs; `None` for one that is away.
#[derive(Debug)]
pub(crate) struct Places(Mutex<[Option<String>; HUBS]>);

// === impl World ===

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let (cluster, links) = Cluster::behind_links(HUBS, true, settings).await?;
        let places = Places(Mutex::default());
        (0..HUBS).for_each(|hub| places.set(hub, Some(cluster.url(hub))));
        Ok(Self {
            cluster,
            links,
            ending: (0..HUBS).map(|_| None).collect(),
            places: Arc::new(places),
            tasks: TaskTracker::new(),
        })
    }

    pub(crate) async fn end(self) {
        futures::future::join_all(self.cluster.hubs.iter().map(|hub| hub.kill())).await;
    }

    pub(crate) fn key(&self) -> &str {
        self.cluster.admin()
    }

    pub(crate) fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// The link of a hub to Redis.
    pub(crate) fn redis(&self, hub: usize) -> &Proxy {
        &self.links[hub].redis
    }

    /// The links that other hubs have dialled to a hub.
    pub(crate) fn peer(&self, hub: usize) -> &Proxy {
        self.links[hub].peer.as_ref().expect("these hubs have links")
    }

    pub(crate) fn is_away(&self, hub: usize) -> bool {
        self.ending[hub].is_some()
    }

    /// Ends a hub: drained, or without a word to anybody. The hub continues to end after this returns.
    pub(crate) fn lose(&mut self, hub: usize, drains: bool) {
        let ends = Arc::clone(&self.cluster.hubs[hub]);
        self.places.set(hub, None);
        if !drains {
            self.links[hub].cut();
        }
        let ending = async move {
            if drains {
                ends.shutdown().await;
            } else {
                ends.kill().await;
            }
        };
        self.ending[hub] = Some(self.tasks.spawn(ending));
    }

    /// Starts a hub in the place of one that is away, once that has ended.
    ///
    /// # Errors
    /// The old hub does not end, or the new one does not start.
    pub(crate) async fn replace(&mut self, hub: usize) -> Result<()> {
        let Some(ending) = self.ending[hub].take() else {
            return Ok(());
        };
        tokio::time::timeout(PATIENCE, ending).await.context("a hub ends")??;
        let links = &self.links[hub];
        links.heal();
        let lead = |config: &mut HubConfig| {
            links.lead(config);
            settings(config);
        };
        self.cluster.replace(hub, lead).await?;
        self.places.set(hub, Some(self.cluster.url(hub)));
        Ok(())
    }

    /// Waits until every hub has its link to Redis.
    ///
    /// # Errors
    /// A hub does not have it.
    pub(crate) async fn is_whole(&self) -> Result<(), String> {
        for hub in 0..HUBS {
            self.cluster.redis_is(hub, "up", PATIENCE).await?;
        }
        Ok(())
    }

    /// Waits until no hub has anything left from the past.
    ///
    /// # Errors
    /// Something is left.
    pub(crate) async fn is_idle(&self) -> Result<(), String> {
        for hub in 0..HUBS {
            self.cluster.is_idle(hub, PATIENCE).await?;
        }
        Ok(())
    }

    /// Calls an operation through a hub, once.
    ///
    /// # Errors
    /// The call is not answered as it should be.
    pub(crate) async fn answers(&self, http: &Http, operation: &str, number: u64) -> Result<(), String> {
        let answer = http.call(operation, &json!(number)).await;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        if answer.body["data"]["call"] == number {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    }
}

// === impl Places ===

impl Places {
    fn set(&self, hub: usize, url: Option<String>) {
        self.0.lock()[hub] = url;
    }

    /// The URL of a hub, if the hub is there.
    pub(crate) fn url(&self, hub: usize) -> Option<String> {
        self.0.lock()[hub].clone()
    }

    /// `host:port` of each hub that is there; which of them comes first depends on `from`.
    pub(crate) fn spread(&self, from: usize) -> Vec<String> {
        let mut places: Vec<String> = self
            .0
            .lock()
            .iter()
            .flatten()
            .map(|url| url.replacen("http://", "", 1))
            .collect();
        if !places.is_empty() {
            let first = from % places.len();
            places.rotate_left(first);
        }
        places
    }
}

/// Begins a fault on what passes a proxy.
pub(crate) fn begin(proxy: &Proxy, fault: Fault) {
    match fault {
        Fault::Cut => proxy.cut(),
        Fault::Blink => {
            proxy.cut();
            proxy.heal();
        }
        Fault::Stall => proxy.hold(),
        Fault::Deaf(direction) => proxy.hold_one(direction),
        Fault::HalfOpen => proxy.hold_one(alkhub_test_support::Direction::ToServer),
        Fault::Reorder => proxy.delay(Duration::from_millis(60)),
    }
}

/// Changes what has to change halfway through a fault.
pub(crate) fn middle(proxy: &Proxy, fault: Fault) {
    match fault {
        Fault::HalfOpen => proxy.orphan(),
        Fault::Cut | Fault::Blink | Fault::Stall | Fault::Deaf(_) | Fault::Reorder => {}
    }
}

/// Settings of a hub that soon notices what is gone, and that no rate limit of its own disturbs.
fn settings(config: &mut HubConfig) {
    const MANY: u32 = 1_000_000;
    config.server.requests_per_second_per_key = MANY;
    config.server.messages_per_second_per_key = MANY;
    config.server.resume = RESUME;
    config.server.ping_interval = Duration::from_millis(1_000);
    config.server.dead_after = Duration::from_secs(3);
    config.server.drain_timeout = Duration::from_secs(2);
    config.events.lease_ttl = Duration::from_secs(4);
    config.events.lease_interval = Duration::from_millis(500);
}
