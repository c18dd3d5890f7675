//! Three hubs that many sequences share, each with a link to Redis that can be cut, and with or without links from pod
//! to pod; and what they say about themselves.
//!
//! - If there are links between the hubs, whatever happens to a hub's link to Redis also happens to those that other
//!   hubs have dialled to it. The first hub dials all others and the last one dials none, so each hub keeps fewer links
//!   than the one before it, from all of them to none.
//! - Everything is asked over HTTP: the API at the main port, metrics and readiness at the management port.

use std::collections::BTreeSet;
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_test_support::try_until_within;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::links::Links;
use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::time::Instant;

use crate::model::Fence;
use crate::steps::HUBS;

/// The longest wait for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A link held for less than this was not given up by its hub, which probes it after seconds of silence.
const SHORT: Duration = Duration::from_millis(500);
/// The number of operations of each spoke.
pub(crate) const OPERATIONS: usize = 3;

/// The hubs.
#[derive(Debug)]
pub(crate) struct World {
    cluster: Cluster,
    clients: Vec<Http>,
    links: Vec<Links>,
    states: [State; HUBS],
    is_linked: bool,
}

/// The state of a hub's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Held(Instant),
    Cut,
}

// === impl World ===

impl World {
    /// Starts three hubs, with or without links from pod to pod.
    pub(crate) async fn start(is_linked: bool) -> Result<Self> {
        let (cluster, links) = Cluster::behind_links(HUBS, is_linked, settings).await?;
        let client = |hub| Http::new(cluster.url(hub), cluster.admin());
        let clients = (0..HUBS).map(client).collect();
        Ok(Self {
            cluster,
            clients,
            links,
            states: [State::Whole; HUBS],
            is_linked,
        })
    }

    /// Ends the hubs, some of which may have ended before.
    pub(crate) async fn end(self) {
        futures::future::join_all(self.cluster.hubs.iter().map(|hub| hub.kill())).await;
    }

    pub(crate) fn url(&self, hub: usize) -> String {
        self.cluster.url(hub)
    }

    pub(crate) fn key(&self) -> &str {
        self.cluster.admin()
    }

    pub(crate) fn http(&self, hub: usize) -> &Http {
        &self.clients[hub]
    }

    pub(crate) fn cut(&mut self, hub: usize) {
        self.links[hub].cut();
        self.states[hub] = State::Cut;
    }

    /// Holds a hub's links: nothing passes until they are healed or cut.
    pub(crate) fn hold(&mut self, hub: usize) {
        if self.states[hub] == State::Whole {
            self.links[hub].hold();
            self.states[hub] = State::Held(Instant::now());
        }
    }

    /// Makes the links of a hub whole. Links that it may have given up are cut first, and links that were cut must be
    /// seen to be down, so that no break is noticed afterwards.
    pub(crate) async fn heal(&mut self, hub: usize) -> Result<(), String> {
        match self.states[hub] {
            State::Held(since) if since.elapsed() >= SHORT => self.cut(hub),
            State::Whole | State::Held(_) | State::Cut => {}
        }
        if self.states[hub] == State::Cut {
            self.redis_is(hub, "down").await?;
            self.links_are(hub, "down", |up| up <= HUBS - 1 - hub).await?;
        }
        self.links[hub].heal();
        self.states[hub] = State::Whole;
        Ok(())
    }

    /// Ends a hub: drained, or without a word to anybody.
    pub(crate) async fn kill(&mut self, hub: usize, drains: bool) {
        if drains {
            self.cluster.hubs[hub].shutdown().await;
        } else {
            self.cut(hub);
            self.cluster.hubs[hub].kill().await;
        }
    }

    /// Starts a hub in the place of one that was killed.
    pub(crate) async fn restart(&mut self, hub: usize) -> Result<()> {
        let links = &self.links[hub];
        links.heal();
        self.states[hub] = State::Whole;
        let lead = |config: &mut HubConfig| {
            links.lead(config);
            settings(config);
        };
        self.cluster.replace(hub, lead).await?;
        self.clients[hub] = Http::new(self.url(hub), self.key());
        Ok(())
    }

    /// Waits until a hub has its link to Redis, and, if there are links between hubs, one with each other hub.
    pub(crate) async fn is_up(&self, hub: usize) -> Result<(), String> {
        self.redis_is(hub, "up").await?;
        self.links_are(hub, "up", |up| up == HUBS - 1).await
    }

    async fn redis_is(&self, hub: usize, wanted: &str) -> Result<(), String> {
        self.cluster.redis_is(hub, wanted, PATIENCE).await
    }

    /// Waits until the number of a hub's links from pod to pod that are up satisfies `is_so`.
    async fn links_are(&self, hub: usize, wanted: &str, is_so: impl Fn(usize) -> bool) -> Result<(), String> {
        if !self.is_linked {
            return Ok(());
        }
        try_until_within(
            &format!("the links of hub {hub} to others are {wanted}"),
            PATIENCE,
            || async {
                let metrics = self.cluster.managed(hub, "/metrics").await?;
                let up = metrics.lines().find_map(|line| line.strip_prefix("alkhub_peer_links "));
                match up.and_then(|up| up.parse().ok()) {
                    Some(up) if is_so(up) => Ok(()),
                    other => Err(format!("{other:?} are up")),
                }
            },
        )
        .await
    }

    /// Waits until a hub lists exactly these instances of a spoke, and knows each of its operations if there are any
    /// instances.
    pub(crate) async fn knows(&self, hub: usize, spoke: &str, wanted: &BTreeSet<(usize, Fence)>) -> Result<(), String> {
        let what = format!("hub {hub} knows {wanted:?} of {spoke}");
        try_until_within(&what, PATIENCE, || async {
            let listed = self.listed(hub, spoke).await.map_err(|error| format!("{error:#}"))?;
            if listed != *wanted {
                return Err(format!("{listed:?}"));
            }
            let offered = self.offered(hub, spoke).await.map_err(|error| format!("{error:#}"))?;
            let is_offered = if wanted.is_empty() {
                offered == 0
            } else {
                offered == OPERATIONS
            };
            if is_offered {
                Ok(())
            } else {
                Err(format!("{offered} operations"))
            }
        })
        .await
    }

    async fn listed(&self, hub: usize, spoke: &str) -> Result<BTreeSet<(usize, Fence)>> {
        // The names of all spokes of a sequence begin with the sequence's name, which itself is no spoke's.
        let (before, _) = spoke.split_at(spoke.len() - 1);
        let path = format!("/v1/spokes?limit=2&cursor={before}");
        let answer = self.http(hub).send("GET", &path, None).await?;
        let spokes = answer.body["data"].as_array().context("a list")?;
        let own = spokes.iter().find(|of| of["name"] == spoke);
        let instances = own.and_then(|own| own["instances"].as_array());
        let one = |instance: &Value| {
            let number = instance["instanceId"].as_str()?.strip_prefix('i')?.parse().ok()?;
            let fence = (instance["generation"].as_u64()?, instance["hubId"].as_str()?.to_owned());
            Some((number, fence))
        };
        Ok(instances.into_iter().flatten().filter_map(one).collect())
    }

    async fn offered(&self, hub: usize, spoke: &str) -> Result<usize> {
        let path = format!("/v1/operations?namespace={spoke}");
        let answer = self.http(hub).send("GET", &path, None).await?;
        let operations = answer.body["data"].as_array().context("a list")?;
        let is_offered = |operation: &&Value| operation["spokes"].as_array().is_some_and(|spokes| !spokes.is_empty());
        Ok(operations.iter().filter(is_offered).count())
    }

    /// Waits until nothing of the past is left on a hub.
    pub(crate) async fn is_idle(&self, hub: usize) -> Result<(), String> {
        self.cluster.is_idle(hub, PATIENCE).await
    }
}

/// Settings of a hub whose end is noticed soon, and that no rate limit or deadline of its own disturbs.
fn settings(config: &mut HubConfig) {
    const MANY: u32 = 1_000_000;
    config.server.requests_per_second_per_key = MANY;
    config.server.messages_per_second_per_key = MANY;
    config.server.drain_timeout = Duration::from_millis(300);
    // Sequences wait for the lease of a killed hub to expire; but a busy machine must not let a living hub lose its
    // lease.
    config.events.lease_ttl = Duration::from_secs(4);
    config.events.lease_interval = Duration::from_millis(500);
    // A call that hangs should be found by PATIENCE.
    config.calls.default_timeout = PATIENCE * 3;
}
