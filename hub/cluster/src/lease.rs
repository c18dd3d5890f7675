//! Leases: which hubs are there, what each announces, and which Hub holds the prefix.
//!
//! Invariants
//! - A hub's lease is in Redis before its entries are; one that has expired is taken out with its entries by whoever
//!   renews next.
//! - A change of a lease reaches every hub with the directory's changes, at once, and again with each renewal. A hub
//!   that drains does so to its end, whatever an older message holds.
//! - After the link comes up no lease expires for one interval: after a restart of Redis the others need time to
//!   come back too.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_protocol::HubId;
use alkhub_protocol::admin::PodReport;
use alkhub_protocol::json::strict;
use alkhub_redis::{Error, Incarnation, LeaseRenewal, LinkHold, LinkState, Redis, Renewed};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Announcements closer together than this make one renewal.
const SETTLE: Duration = Duration::from_millis(100);

/// What a hub announces of itself in its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Lease {
    /// Its pod's name; empty outside Kubernetes.
    pub pod: String,
    /// Its software's version.
    pub version: String,
    /// Open WebSockets.
    pub connections: u64,
    /// Whether it is going away.
    pub draining: bool,
    /// Its share of connections beside the other hubs.
    pub weight: u32,
}

/// Who holds the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The Hub that asked.
    Mine,
    /// The Hub with this uid.
    Taken(String),
}

/// What this hub announces and what it knows of the others.
#[derive(Debug)]
pub(crate) struct Leases {
    hub: HubId,
    ttl: Duration,
    interval: Duration,
    lease: watch::Sender<Lease>,
    /// What the other hubs announced last.
    others: Mutex<Others>,
    pods: ArcSwap<Vec<PodReport>>,
    draining: ArcSwap<HashSet<HubId>>,
    owner: Mutex<Option<String>>,
    /// Whether the lease was given back; one renewal at a time, and none after that.
    left: tokio::sync::Mutex<bool>,
    /// The lease of this hub had expired: the directory has lost its entries.
    pub(crate) expired: Notify,
    metrics: Metrics,
}

/// What is known of the other hubs.
#[derive(Debug, Default)]
struct Others {
    pods: BTreeMap<HubId, PodReport>,
    /// The number of what a hub announced last, or of its end, since the last list was asked for.
    news: BTreeMap<HubId, u64>,
    number: u64,
}

// === impl Leases ===

impl Leases {
    pub(crate) fn new(config: &EventsConfig, hub: &HubId, metrics: Metrics) -> Self {
        let (lease, _) = watch::channel(Lease::default());
        let leases = Self {
            hub: hub.clone(),
            ttl: config.lease_ttl,
            interval: config.lease_interval,
            lease,
            others: Mutex::default(),
            pods: ArcSwap::default(),
            draining: ArcSwap::default(),
            owner: Mutex::default(),
            left: tokio::sync::Mutex::default(),
            expired: Notify::new(),
            metrics,
        };
        leases.know(|_| {});
        leases
    }

    pub(crate) fn announce(&self, lease: Lease) {
        let changed = self.lease.send_if_modified(|known| {
            let changed = *known != lease;
            *known = lease;
            changed
        });
        if changed {
            self.know(|_| {});
        }
    }

    /// Another hub has announced something.
    pub(crate) fn observe(&self, hub: &HubId, lease: &Lease) {
        if *hub != self.hub {
            self.know(|others| {
                others.news_of(hub);
                note(&mut others.pods, pod_report(hub.clone(), lease));
            });
        }
    }

    /// Another hub is gone.
    pub(crate) fn forget(&self, hub: &HubId) {
        self.know(|others| {
            others.news_of(hub);
            others.pods.remove(hub);
        });
    }

    pub(crate) fn pods(&self) -> Arc<Vec<PodReport>> {
        self.pods.load_full()
    }

    pub(crate) fn draining(&self) -> arc_swap::Guard<Arc<HashSet<HubId>>> {
        self.draining.load()
    }

    /// Renews the lease; whether Redis knew the hub.
    pub(crate) async fn renew(&self, incarnation: &Incarnation, expire_others: bool) -> Result<bool, Error> {
        let left = self.left.lock().await;
        if *left {
            return Ok(true);
        }
        let asked = self.others.lock().number;
        let lease = serde_json::to_string(&*self.lease.borrow()).expect("a lease has a JSON form");
        let owner = self.owner.lock().clone().unwrap_or_default();
        let renewal = LeaseRenewal {
            lease: &lease,
            ttl: self.ttl,
            owner: &owner,
            expire_others,
        };
        let Renewed { joined, living } = incarnation.renew_lease(renewal).await?;
        let living = living.iter().filter(|(id, _)| id != self.hub.as_str());
        let living: Vec<PodReport> = living.filter_map(|(id, lease)| report(id, lease)).collect();
        self.know(|others| others.listed(living, asked));
        Ok(!joined)
    }

    /// Gives the lease back: the other hubs learn at once that this one is gone.
    async fn leave(&self, incarnation: &Incarnation) -> Result<(), Error> {
        *self.left.lock().await = true;
        incarnation.give_lease_back().await
    }

    pub(crate) async fn claim(&self, redis: Option<&Redis>, uid: &str) -> Result<Claim, Error> {
        let Some(redis) = redis else { return Ok(Claim::Mine) };
        let holder = redis.incarnation()?.claim_prefix(uid, self.ttl).await?;
        if holder != uid {
            return Ok(Claim::Taken(holder));
        }
        *self.owner.lock() = Some(uid.to_owned());
        Ok(Claim::Mine)
    }

    /// Changes what is known of the others.
    fn know(&self, change: impl FnOnce(&mut Others)) {
        let mut others = self.others.lock();
        change(&mut others);
        let mut pods: Vec<PodReport> = others.pods.values().cloned().collect();
        pods.push(pod_report(self.hub.clone(), &self.lease.borrow()));
        pods.sort_by(|a, b| a.hub_id.cmp(&b.hub_id));
        self.metrics.hubs.set(i64::try_from(pods.len()).unwrap_or(i64::MAX));
        let draining = pods.iter().filter(|pod| pod.draining);
        self.draining
            .store(Arc::new(draining.map(|pod| pod.hub_id.clone()).collect()));
        self.pods.store(Arc::new(pods));
    }
}

// === impl Others ===

impl Others {
    /// A hub announced something: a list that was asked for before does not have it.
    fn news_of(&mut self, hub: &HubId) {
        self.number += 1;
        self.news.insert(hub.clone(), self.number);
    }

    /// Redis lists the living hubs, as they were when it was `asked`. Its answer and the news come by two connections.
    fn listed(&mut self, living: Vec<PodReport>, asked: u64) {
        self.news.retain(|_, number| *number > asked);
        let Self { pods, news, .. } = self;
        pods.retain(|hub, _| news.contains_key(hub) || living.iter().any(|pod| pod.hub_id == *hub));
        let known = living.into_iter().filter(|pod| !news.contains_key(&pod.hub_id));
        known.for_each(|pod| note(pods, pod));
    }
}

/// Renews the lease as long as the hub runs, and gives it back. `hold` keeps the link until then.
pub(crate) async fn keep(leases: Arc<Leases>, redis: Redis, stop: CancellationToken, hold: LinkHold) {
    let mut state = redis.state();
    let mut lease = leases.lease.subscribe();
    let mut ticks = tokio::time::interval(leases.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // The directory renews before it asserts its entries, see `directory::actor`; here the next tick is put off.
            Ok(()) = state.changed() => ticks.reset(),
            Ok(()) = lease.changed() => {
                sleep(SETTLE).await;
                lease.borrow_and_update();
                renew(&leases, &redis, false).await;
            }
            _ = ticks.tick() => renew(&leases, &redis, true).await,
        }
    }
    if let Ok(incarnation) = redis.incarnation()
        && let Err(error) = leases.leave(&incarnation).await
    {
        tracing::warn!(%error, "lease was not given back; it ends by itself");
    }
    drop(hold);
}

/// Sets what this hub's lease holds from now on, and returns when Redis has it.
pub(crate) async fn announce_now(leases: &Leases, redis: Option<&Redis>, lease: Lease) -> Result<(), Error> {
    leases.announce(lease);
    let Some(redis) = redis else { return Ok(()) };
    let incarnation = redis.incarnation()?;
    if !leases.renew(&incarnation, false).await? {
        leases.expired.notify_one();
    }
    Ok(())
}

async fn renew(leases: &Leases, redis: &Redis, expire_others: bool) {
    if *redis.state().borrow() != LinkState::Up {
        return;
    }
    let Ok(incarnation) = redis.incarnation() else { return };
    match leases.renew(&incarnation, expire_others).await {
        Ok(true) => {}
        Ok(false) => leases.expired.notify_one(),
        Err(error) => tracing::warn!(%error, "lease was not renewed"),
    }
}

/// Notes what a hub announced. An older message may come after the one by which it drains.
fn note(others: &mut BTreeMap<HubId, PodReport>, mut pod: PodReport) {
    pod.draining |= others.get(&pod.hub_id).is_some_and(|known| known.draining);
    others.insert(pod.hub_id.clone(), pod);
}

fn report(id: &str, lease: &str) -> Option<PodReport> {
    Some(pod_report(id.parse().ok()?, &strict::from_str(lease).ok()?))
}

fn pod_report(hub_id: HubId, lease: &Lease) -> PodReport {
    let Lease {
        pod,
        version,
        connections,
        draining,
        weight: _,
    } = lease.clone();
    PodReport {
        hub_id,
        pod,
        version,
        connections,
        draining,
    }
}
