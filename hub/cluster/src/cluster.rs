//! The handle to the cluster: what the rest of a hub asks of it, and how it starts.

use std::collections::{BTreeSet, HashSet};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use alkhub_budget::Budgets;
use alkhub_config::EventsConfig;
use alkhub_peer::{PeerConnector, PeerReceiver, PeerSetup};
use alkhub_protocol::admin::PodReport;
use alkhub_protocol::{HubId, InstanceId, SpokeName};
use alkhub_redis::{Connector, DirectoryPlace, LinkState, Redis};
use alkhub_tasks::Supervisor;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::carrier::Carriers;
use crate::conduit::{self, Conduits, Incoming};
use crate::directory::{self, DirectoryChanges, DirectoryHandle, Position, Weighed};
use crate::entry::{DirectoryEntry, Fence};
use crate::error::Error;
use crate::inbox;
use crate::keys::{self, KeyChange, KeyNews};
use crate::lease::Lease;
use crate::leases::{Leases, PrefixReservation};
use crate::linked::LinkReceiver;
use crate::members::{self, DrainMark, LastMembers, MemberRecord, MemberRecords};
use crate::metrics::Metrics;
use crate::once::Once;
use crate::receiver::ClusterReceiver;
use crate::renewal;

/// How many relayed messages that came back may wait for their reader.
const UNDELIVERABLE: usize = 4_096;

/// The other hubs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    redis: Option<Redis>,
    directory: DirectoryHandle,
    conduits: Conduits,
    leases: Arc<Leases>,
    members: LastMembers,
    keys: KeyNews,
    changes: Once<Weighed>,
    incoming: Mutex<Option<Incoming>>,
    link: Option<watch::Receiver<LinkState>>,
    key_changes: Once<KeyChange>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts a hub's part in its cluster, on its link to Redis; other hubs are reached once that link is started. The
    /// supervisor watches its loops; when they are asked to stop, the lease is given back. With `peers` there are links
    /// from pod to pod beside Redis. The hubs learn of each other through Redis, so without it there are no such links.
    /// Whatever other hubs have not acknowledged is charged to the budgets.
    ///
    /// # Errors
    /// A metric is already registered.
    pub fn start(
        config: &EventsConfig,
        link: &mut Connector,
        supervisor: &Supervisor,
        (registry, budgets): (&Registry, &Budgets),
        peers: Option<PeerSetup>,
    ) -> Result<Self, prometheus::Error> {
        let (hub, redis) = (link.hub().clone(), link.redis());
        let metrics = Metrics::register(registry)?;
        let peers = peers.filter(|_| redis.is_some());
        let peers = peers.map(|setup| PeerConnector::new(&hub, setup, supervisor, registry));
        let peers = peers.transpose()?;
        let leases = Arc::new(Leases::new(config, &hub, peers.as_ref(), metrics.clone()));
        let (inbox_sender, inbox) = inbox::channel();
        let (returned, undeliverable) = mpsc::channel(UNDELIVERABLE);
        let keys = keys::new(&hub, redis.clone());
        let directory = directory::new(&hub, redis.clone(), leases.clone());
        link.set_hub_receiver(Arc::new(ClusterReceiver {
            inbox: inbox_sender.clone(),
            feed: directory.feed,
            keys: keys.news.clone(),
            undeliverable: returned,
            metrics: metrics.clone(),
        }));
        let stop = || supervisor.stop().clone();
        supervisor.keep("cluster.directory", directory.actor.run(stop()));
        keys.loops.start(supervisor);
        if let Some(redis) = &redis {
            let lease = renewal::keep(leases.clone(), redis.clone(), stop(), redis.hold());
            supervisor.keep("cluster.lease", lease);
        }
        let carriers = Carriers {
            links: peers.as_ref().map(PeerConnector::links),
            redis: redis.clone(),
            metrics: metrics.clone(),
        };
        let sources = conduit::Sources {
            inbox,
            returned: undeliverable,
            link: link.state(),
        };
        let (conduits, incoming) = conduit::new(&hub, carriers, leases.clone(), budgets.clone(), sources);
        if let Some(peers) = peers {
            let receiver: Arc<dyn PeerReceiver> = Arc::new(LinkReceiver {
                inbox: inbox_sender,
                conduits: conduits.clone(),
                leases: leases.clone(),
                metrics,
            });
            peers.start(&receiver);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                directory: directory.directory,
                conduits,
                redis,
                leases,
                members: LastMembers::default(),
                keys: keys.news,
                changes: Once::new(directory.changes),
                incoming: Mutex::new(Some(incoming)),
                link: link.state(),
                key_changes: Once::new(keys.changes),
            }),
        })
    }

    /// Records an instance that this hub holds and returns its generation: one more than the highest ever given in the
    /// directory, and at least the clock in milliseconds, so that no restart of Redis makes generations go backwards.
    ///
    /// Nothing is recorded if the token is cancelled before the registration's turn among this hub's changes: an
    /// instance that has come back on this hub has the higher generation, however long its first registration waited.
    /// If the token is cancelled while Redis is being asked, the record is taken back, and what this hub held of the
    /// instance before stands; another hub that held it may meanwhile have learned of the record.
    ///
    /// While Redis is away, refuses, or does not answer within `events.timeout`, this hub chooses the generation
    /// itself, beyond every one that it has seen, and asserts the entry when Redis is back. Dropping the future does
    /// not take the entry back.
    ///
    /// # Errors
    /// [`Error::GivenUp`]: the token was cancelled in time. [`Error::Ending`].
    pub async fn register_unless(&self, gone: &CancellationToken, entry: DirectoryEntry) -> Result<u64, Error> {
        self.shared.directory.register(entry, None, gone).await
    }

    /// [`Cluster::register_unless`] for an instance that another hub has given up and of which that hub had this
    /// record: one compare-and-set. The record need not exist any more.
    ///
    /// # Errors
    /// The same; [`Error::Taken`]: the instance has registered again since.
    pub async fn take_over_unless(
        &self,
        gone: &CancellationToken,
        entry: DirectoryEntry,
        of: Fence<'_>,
    ) -> Result<u64, Error> {
        let directory = &self.shared.directory;
        directory
            .register(entry, Some((of.hub.clone(), of.generation)), gone)
            .await
    }

    /// Tells all hubs whether the connection of an instance that this hub holds is away: what `is_reconnecting` says
    /// when the change's turn comes. Nothing happens if by then the instance has a later generation, or none. Returns
    /// when the change is queued; dropping the future may leave it undone.
    ///
    /// # Errors
    /// Only [`Error::Ending`]. While Redis is away, the others learn of the change when it is back.
    pub async fn state_changed(
        &self,
        instance: (SpokeName, InstanceId),
        generation: u64,
        is_reconnecting: Arc<AtomicBool>,
    ) -> Result<(), Error> {
        self.shared
            .directory
            .state_changed(instance, generation, is_reconnecting)
            .await
    }

    /// Removes the record of an instance, unless a later generation has taken its place.
    ///
    /// # Errors
    /// Only [`Error::Ending`]. While Redis is away, the record is removed when it is back.
    pub async fn unregister(&self, spoke: &SpokeName, instance: &InstanceId, generation: u64) -> Result<(), Error> {
        self.shared.directory.unregister(spoke, instance, generation).await
    }

    /// The directory of all hubs, from now on. The first item is a snapshot; a reader that falls behind gets a snapshot
    /// instead of changes, and so does every reader when changes may have been missed. Given once.
    pub fn directory(&self) -> DirectoryChanges {
        DirectoryChanges::new(self.shared.changes.take())
    }

    /// Waits until the reader of [`Cluster::directory`] has applied everything that Redis had when this was called, at
    /// the cost of one small read. Returns whether that is everything that the other hubs hold: for a moment after
    /// Redis was away, they may not have written it again yet. The caller sets a time limit.
    ///
    /// # Errors
    /// Redis is away, refuses, or does not answer within `events.timeout`; or this hub is ending.
    pub async fn catch_up(&self) -> Result<bool, Error> {
        let Some(redis) = &self.shared.redis else {
            return Ok(true);
        };
        let place = redis.incarnation()?.directory_place().await?;
        if let Some(DirectoryPlace { epoch, number }) = place {
            self.shared.directory.catch_up(Position { epoch, number }).await?;
        }
        Ok(!self.shared.leases.is_suspect())
    }

    /// The handle that sends to other hubs.
    pub fn conduits(&self) -> &Conduits {
        &self.shared.conduits
    }

    /// The messages of other hubs. `None` if they were asked for before.
    pub fn incoming(&self) -> Option<Incoming> {
        let mut incoming = self.shared.incoming.lock().take()?;
        incoming.begin();
        Some(incoming)
    }

    /// The state of the link to Redis, now and later; `None` if there is no such link, and so no other hub.
    pub fn link(&self) -> Option<watch::Receiver<LinkState>> {
        self.shared.link.clone()
    }

    /// Sets what this hub's lease contains from now on. The lease itself is kept from the start and given back at the
    /// end, whether or not this is called.
    ///
    /// `lease` is called while no other announcement can be made, so that an older one never takes the place of a newer
    /// one. It must not wait, nor announce anything itself.
    pub fn announce(&self, lease: impl FnOnce() -> Lease) {
        self.shared.leases.announce(lease);
    }

    /// [`Cluster::announce`], but returns only when Redis has passed the lease on to the other hubs. Dropping the
    /// future, or an error, leaves it to the next renewal.
    ///
    /// # Errors
    /// Redis is away, refuses, or does not answer within `events.timeout`.
    pub async fn announce_now(&self, lease: impl FnOnce() -> Lease) -> Result<(), Error> {
        self.announce(lease);
        Ok(renewal::renew_now(&self.shared.leases, self.shared.redis.as_ref()).await?)
    }

    /// The hubs that are draining, possibly including this one: calls go to other hubs as long as there are any. Cheap
    /// enough to be asked for each call.
    pub fn draining(&self) -> impl Deref<Target = Arc<HashSet<HubId>>> {
        self.shared.leases.draining()
    }

    /// Every hub with a live lease, including this one; while Redis is away, those of the last renewal.
    pub fn pods(&self) -> Arc<Vec<PodReport>> {
        self.shared.leases.pods()
    }

    /// The other hubs to which there is a link from pod to pod.
    pub fn linked(&self) -> BTreeSet<HubId> {
        self.shared.leases.linked()
    }

    /// The pods of [`Cluster::pods`], with the figures that they have recently published ([`Cluster::exchange`]).
    pub fn report(&self) -> Vec<PodReport> {
        self.shared.members.add_to(&self.pods())
    }

    /// Publishes what this hub says about itself, if anything, and reads what all hubs say; meant to be called once a
    /// second. Dropping the future may leave it published.
    ///
    /// # Errors
    /// Redis is away, refuses, or does not answer within `events.timeout`. [`Error::Alone`]: there is no Redis.
    pub async fn exchange(&self, own: Option<&MemberRecord>) -> Result<MemberRecords, Error> {
        let Shared {
            redis, leases, members, ..
        } = &*self.shared;
        members.exchange(redis.as_ref(), leases, own).await
    }

    /// Marks a hub as one that should give its connections away, for this long: the hub learns of it within a second or
    /// two.
    ///
    /// # Errors
    /// The same as [`Cluster::exchange`].
    pub async fn mark_draining(&self, hub: &HubId, mark: &DrainMark, time: Duration) -> Result<(), Error> {
        members::mark_draining(self.shared.redis.as_ref(), hub, mark, time).await
    }

    /// Removes that mark.
    ///
    /// # Errors
    /// The same as [`Cluster::exchange`].
    pub async fn unmark_draining(&self, hub: &HubId) -> Result<(), Error> {
        members::unmark_draining(self.shared.redis.as_ref(), hub).await
    }

    /// Orders all hubs to rebalance, for this long.
    ///
    /// # Errors
    /// The same as [`Cluster::exchange`].
    pub async fn order_rebalance(&self, time: Duration) -> Result<(), Error> {
        members::order_rebalance(self.shared.redis.as_ref(), time).await
    }

    /// Announces to every hub, including this one, that keys have changed. Returns when Redis has the announcement, or
    /// cannot be reached now: then it is sent as soon as possible. Dropping the future takes nothing back.
    pub async fn announce_key_change(&self, change: KeyChange) {
        self.shared.keys.announce(change).await;
    }

    /// News about keys. Given once. [`KeyChange::Recheck`] comes every time the link to Redis has come up.
    pub fn key_changes(&self) -> mpsc::Receiver<KeyChange> {
        self.shared.key_changes.take()
    }

    /// Reserves the prefix for the Hub with this uid. The reservation lasts as long as some hub of that Hub renews its
    /// lease, and ends with the last one, so that a Hub created anew under the same name gets the prefix.
    ///
    /// # Errors
    /// Redis is away or refuses.
    pub async fn reserve_prefix(&self, hub_uid: &str) -> Result<PrefixReservation, Error> {
        Ok(self
            .shared
            .leases
            .reserve_prefix(self.shared.redis.as_ref(), hub_uid)
            .await?)
    }
}
