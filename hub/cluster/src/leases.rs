//! The leases of all hubs: which hubs are there, what each announces, and which Hub holds the prefix.
//!
//! Invariants
//! - A hub's lease is in Redis before its entries are; a lease that has expired is removed, with its entries, by
//!   whichever hub renews next ([`crate::renewal`]).
//! - A change of a lease reaches every hub at once, with the directory's changes, and again with each renewal.
//! - While the content of an announcement is being read, no other can be made: the later of two announcements has the
//!   later state.
//! - A hub whose lease is gone stays as long as there is a link to it ([`Leases::lapse`]): a hub that answers is alive.
//!   It is gone when the link ends too, unless its lease is back by then.
//! - After the link to Redis comes up, no lease expires for one interval: after a restart of Redis the others need time
//!   to come back too.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_peer::{PeerAddress, PeerConnector, PeerLinks};
use alkhub_protocol::HubId;
use alkhub_protocol::admin::PodReport;
use alkhub_redis::{Error, Incarnation, LeaseRenewal, Redis, Renewed};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::others::{OtherHubs, Returns};

/// Who holds the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixReservation {
    /// The Hub that asked.
    Mine,
    /// The Hub with this uid.
    Taken(String),
}

/// What this hub announces, and what it knows about the others.
#[derive(Debug)]
pub(crate) struct Leases {
    hub: HubId,
    ttl: Duration,
    interval: Duration,
    lease: watch::Sender<Lease>,
    /// The links from pod to pod, and the address at which this hub takes them.
    links: Option<(PeerLinks, PeerAddress)>,
    /// The last announcements of the other hubs.
    others: Mutex<OtherHubs>,
    pods: ArcSwap<Vec<PodReport>>,
    draining: ArcSwap<HashSet<HubId>>,
    owner: Mutex<Option<String>>,
    /// Whether the lease was given back. One renewal at a time, and none after that.
    left: tokio::sync::Mutex<bool>,
    /// Until then Redis is suspect: it may have lost entries that the other hubs have not written again yet.
    suspect_until: Mutex<Option<Instant>>,
    /// Notified when this hub's lease turns out to have expired: the directory has lost its entries.
    pub(crate) expired: Notify,
    /// Notified when a hub without a lease lost its link, or got its lease back: [`Leases::take_returns`] tells which.
    pub(crate) returned: Notify,
    metrics: Metrics,
}

// === impl Leases ===

impl Leases {
    pub(crate) fn new(config: &EventsConfig, hub: &HubId, peers: Option<&PeerConnector>, metrics: Metrics) -> Self {
        let links = peers.map(|peers| (peers.links(), peers.address()));
        let (lease, _) = watch::channel(Lease {
            peer: links.as_ref().map(|(_, address)| *address),
            ..Lease::default()
        });
        let leases = Self {
            hub: hub.clone(),
            ttl: config.lease_ttl,
            interval: config.lease_interval,
            lease,
            links,
            others: Mutex::default(),
            pods: ArcSwap::default(),
            draining: ArcSwap::default(),
            owner: Mutex::default(),
            left: tokio::sync::Mutex::default(),
            suspect_until: Mutex::default(),
            expired: Notify::new(),
            returned: Notify::new(),
            metrics,
        };
        leases.know(|_| {});
        leases
    }

    /// Sets what this hub's lease contains from now on ([`crate::Cluster::announce`]).
    pub(crate) fn announce(&self, lease: impl FnOnce() -> Lease) {
        let peer = self.links.as_ref().map(|(_, address)| *address);
        let changed = self.lease.send_if_modified(|known| {
            let lease = lease();
            let turn = known.turn + u64::from(known.draining != lease.draining);
            let lease = Lease { peer, turn, ..lease };
            let changed = *known != lease;
            *known = lease;
            changed
        });
        if changed {
            self.know(|_| {});
        }
    }

    /// Notes what another hub has announced.
    pub(crate) fn observe(&self, hub: &HubId, lease: &Lease) {
        if *hub != self.hub {
            self.know(|others| {
                others.news_of(hub);
                others.lives(hub.clone(), lease.clone());
            });
        }
    }

    /// Notes that the lease of another hub is gone. Returns whether the hub is: it is not as long as there is a link to
    /// it.
    pub(crate) fn lapse(&self, hub: &HubId) -> bool {
        let mut is_gone = true;
        self.know(|others| {
            others.news_of(hub);
            // Under the lock, so that a link that ends after this finds what is noted here.
            is_gone = !self.is_linked(hub);
            others.lapse(hub, is_gone);
        });
        is_gone
    }

    /// A link to another hub came up or ended.
    pub(crate) fn link_changed(&self, hub: &HubId) {
        self.know(|others| {
            if !self.is_linked(hub) {
                others.unlinked(hub);
            }
        });
    }

    /// See [`OtherHubs::take_returns`].
    pub(crate) fn take_returns(&self) -> Returns {
        self.others.lock().take_returns()
    }

    /// The hubs without a lease to which there is a link.
    pub(crate) fn lapsed(&self) -> BTreeSet<HubId> {
        self.others.lock().lapsed().clone()
    }

    /// The hubs to which there is a link.
    pub(crate) fn linked(&self) -> BTreeSet<HubId> {
        let others = self.others.lock();
        let hubs = others.leases().map(|(hub, _)| hub);
        hubs.filter(|hub| self.is_linked(hub)).cloned().collect()
    }

    /// How often leases are renewed.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Notes that the link to Redis came or went. Redis is suspect from now on: it may have lost entries of the other
    /// hubs, which need time to write them again.
    pub(crate) fn suspect_loss(&self) {
        *self.suspect_until.lock() = Some(Instant::now() + self.interval);
    }

    /// Whether Redis may lack entries that other hubs hold.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect_until.lock().is_some_and(|until| Instant::now() < until)
    }

    fn is_linked(&self, hub: &HubId) -> bool {
        self.links.as_ref().is_some_and(|(links, _)| links.is_up(hub))
    }

    /// The content of this hub's lease, with every change of it.
    pub(crate) fn changes(&self) -> watch::Receiver<Lease> {
        self.lease.subscribe()
    }

    pub(crate) fn pods(&self) -> Arc<Vec<PodReport>> {
        self.pods.load_full()
    }

    pub(crate) fn draining(&self) -> arc_swap::Guard<Arc<HashSet<HubId>>> {
        self.draining.load()
    }

    /// Renews the lease; returns whether Redis knew the hub.
    pub(crate) async fn renew(&self, incarnation: &Incarnation, expire_others: bool) -> Result<bool, Error> {
        let left = self.left.lock().await;
        if *left {
            return Ok(true);
        }
        let asked = self.others.lock().number();
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
        let living: Vec<(HubId, Lease)> = living.filter_map(|(id, lease)| Lease::read(id, lease)).collect();
        self.know(|others| others.listed(living, asked, |hub| self.is_linked(hub)));
        Ok(!joined)
    }

    /// Gives the lease back: the other hubs learn at once that this one is gone.
    pub(crate) async fn leave(&self, incarnation: &Incarnation) -> Result<(), Error> {
        *self.left.lock().await = true;
        incarnation.give_lease_back().await
    }

    pub(crate) async fn reserve_prefix(&self, redis: Option<&Redis>, uid: &str) -> Result<PrefixReservation, Error> {
        let Some(redis) = redis else {
            return Ok(PrefixReservation::Mine);
        };
        let holder = redis.incarnation()?.reserve_prefix(uid, self.ttl).await?;
        if holder != uid {
            return Ok(PrefixReservation::Taken(holder));
        }
        *self.owner.lock() = Some(uid.to_owned());
        Ok(PrefixReservation::Mine)
    }

    /// Changes what is known about the other hubs.
    fn know(&self, change: impl FnOnce(&mut OtherHubs)) {
        let mut others = self.others.lock();
        change(&mut others);
        if others.has_returns() {
            self.returned.notify_one();
        }
        if let Some((links, _)) = &self.links {
            let address = |(hub, lease): (&HubId, &Lease)| lease.peer.map(|peer| (hub.clone(), peer));
            links.others_are(others.leases().filter_map(address).collect());
        }
        let pods = others.leases().map(|(hub, lease)| lease.report(hub.clone()));
        let mut pods: Vec<PodReport> = pods.collect();
        pods.push(self.lease.borrow().report(self.hub.clone()));
        pods.sort_by(|a, b| a.hub_id.cmp(&b.hub_id));
        self.metrics.hubs.set(i64::try_from(pods.len()).unwrap_or(i64::MAX));
        let draining = pods.iter().filter(|pod| pod.draining);
        self.draining
            .store(Arc::new(draining.map(|pod| pod.hub_id.clone()).collect()));
        self.pods.store(Arc::new(pods));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use prometheus::Registry;

    use super::*;

    #[test]
    fn what_is_announced_is_read_while_nobody_else_announces() {
        let metrics = Metrics::register(&Registry::new()).expect("registered once");
        let hub = "a".parse().expect("an id");
        let leases = Leases::new(&EventsConfig::default(), &hub, None, metrics);
        let drains = AtomicBool::new(false);
        let announce = |seen: &dyn Fn()| {
            leases.announce(|| {
                let draining = drains.load(Ordering::SeqCst);
                seen();
                Lease {
                    draining,
                    ..Lease::default()
                }
            });
        };
        let (read, has_read) = mpsc::channel();
        let (later, is_later) = mpsc::channel();

        std::thread::scope(|threads| {
            let older = threads.spawn(move || {
                announce(&|| {
                    read.send(()).expect("it is waited for");
                    // The later announcement should wait for this one; if it did not, it would be over by then.
                    let _ = is_later.recv_timeout(Duration::from_millis(200));
                });
            });
            has_read.recv().expect("it announces");
            drains.store(true, Ordering::SeqCst);
            announce(&|| {});
            let _ = later.send(());
            older.join().expect("it announces");
        });

        assert!(leases.lease.borrow().draining);
        assert!(leases.draining().contains(&hub));
    }
}
