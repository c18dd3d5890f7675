//! The handle: what the rest of a hub asks of the cluster, and how it starts.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

use alkhub_config::EventsConfig;
use alkhub_protocol::admin::PodReport;
use alkhub_protocol::{HubId, InstanceId, SpokeName};
use alkhub_redis::{Connector, LinkState, Redis};
use alkhub_tasks::Supervisor;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::carrier::Carrier;
use crate::conduit::{self, Conduits, Incoming};
use crate::directory::{self, DirectoryHandle};
use crate::entry::{DirectoryChange, DirectoryEntry};
use crate::error::Error;
use crate::inbox;
use crate::keys::{self, KeyChange, KeyNews};
use crate::lease::{self, Claim, Lease, Leases};
use crate::metrics::Metrics;
use crate::once::Once;
use crate::receiver::ClusterReceiver;

/// Relayed messages that came back and wait for their reader.
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
    keys: KeyNews,
    changes: Once<DirectoryChange>,
    incoming: Mutex<Option<Incoming>>,
    link: watch::Receiver<LinkState>,
    key_changes: Once<KeyChange>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts the part of a hub in its cluster, on its link to Redis; other hubs are reached once that is started. The
    /// supervisor watches over its loops; when they are asked to stop, the lease is given back.
    ///
    /// # Errors
    /// A metric is registered already.
    pub fn start(
        config: &EventsConfig,
        link: &mut Connector,
        supervisor: &Supervisor,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let (hub, redis) = (link.hub().clone(), link.redis());
        let metrics = Metrics::register(registry)?;
        let leases = Arc::new(Leases::new(config, &hub, metrics.clone()));
        let (inbox_sender, inbox) = inbox::channel();
        let (returned, undeliverable) = mpsc::channel(UNDELIVERABLE);
        let (keys, key_loops, key_changes) = keys::new(&hub, redis.clone());
        let directory = directory::new(&hub, redis.clone(), leases.clone());
        link.set_hub_receiver(Arc::new(ClusterReceiver {
            inbox: inbox_sender,
            feed: directory.feed,
            keys: keys.clone(),
            undeliverable: returned,
            metrics: metrics.clone(),
        }));
        let stop = || supervisor.stop().clone();
        supervisor.keep("cluster.directory", directory.actor.run(stop()));
        key_loops.start(supervisor);
        if let Some(redis) = &redis {
            let lease = lease::keep(leases.clone(), redis.clone(), stop(), redis.hold());
            supervisor.keep("cluster.lease", lease);
        }
        let carrier = redis.clone().map_or(Carrier::Alone, Carrier::Redis);
        let sources = conduit::Sources {
            inbox,
            returned: undeliverable,
            link: link.state(),
        };
        let (conduits, incoming) = conduit::new(&hub, carrier, leases.clone(), metrics, sources);
        Ok(Self {
            shared: Arc::new(Shared {
                directory: directory.directory,
                conduits,
                redis,
                leases,
                keys,
                changes: Once::new(directory.changes),
                incoming: Mutex::new(Some(incoming)),
                link: link.state(),
                key_changes: Once::new(key_changes),
            }),
        })
    }

    /// Records an instance that this hub holds and returns its generation: one more than the highest that was ever
    /// given in the directory, and at least the clock in milliseconds, so that no restart of Redis runs it backwards.
    ///
    /// Nothing is recorded when the token is cancelled before its turn among the changes of this hub comes: an instance
    /// that has come back on this hub has the higher generation, however long its first registration waited.
    ///
    /// While Redis is away, refuses, or does not answer in `events.timeout`, the generation is this hub's own, beyond
    /// every one that it has seen, and the entry is asserted when Redis is back.
    /// Dropping the future does not take the entry back.
    ///
    /// # Errors
    /// [`Error::GivenUp`]: it was cancelled in time. [`Error::Ending`].
    pub async fn register_unless(&self, gone: &CancellationToken, entry: DirectoryEntry) -> Result<u64, Error> {
        self.shared.directory.register(entry, gone).await
    }

    /// Takes the record of an instance away, unless a later generation has taken its place.
    ///
    /// # Errors
    /// [`Error::Ending`] alone. While Redis is away the record is removed when it is back.
    pub async fn unregister(&self, spoke: &SpokeName, instance: &InstanceId, generation: u64) -> Result<(), Error> {
        self.shared.directory.unregister(spoke, instance, generation).await
    }

    /// The directory of all hubs, from now on. The first item is a snapshot; a reader that falls behind, and every
    /// one when changes may have been missed, gets a snapshot instead of changes. Given once.
    pub fn directory(&self) -> mpsc::Receiver<DirectoryChange> {
        self.shared.changes.take()
    }

    /// Sends to other hubs.
    pub fn conduits(&self) -> &Conduits {
        &self.shared.conduits
    }

    /// What comes from other hubs. `None` when it was asked for before.
    pub fn incoming(&self) -> Option<Incoming> {
        let mut incoming = self.shared.incoming.lock().take()?;
        incoming.begin();
        Some(incoming)
    }

    /// How the link to the other hubs is, now and later.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.shared.link.clone()
    }

    /// Sets what this hub's lease holds from now on. The lease itself is kept from the start and given back at the
    /// end, whether or not this was called.
    pub fn announce(&self, lease: Lease) {
        self.shared.leases.announce(lease);
    }

    /// [`Cluster::announce`], and returns when Redis has passed it to the other hubs. Dropping the future leaves it to the next
    /// renewal, and so does an error.
    ///
    /// # Errors
    /// Redis is away, refuses, or does not answer in `events.timeout`.
    pub async fn announce_now(&self, lease: Lease) -> Result<(), Error> {
        Ok(lease::announce_now(&self.shared.leases, self.shared.redis.as_ref(), lease).await?)
    }

    /// The hubs that go away, this one included: calls go elsewhere as long as there is anybody else. Cheap enough to be
    /// asked for each call.
    pub fn draining(&self) -> impl Deref<Target = Arc<HashSet<HubId>>> {
        self.shared.leases.draining()
    }

    /// Every hub with a live lease, this one included; of the last renewal, while Redis is away.
    pub fn pods(&self) -> Arc<Vec<PodReport>> {
        self.shared.leases.pods()
    }

    /// Announces to every hub that keys changed, this one included. Returns when Redis has it, or cannot get it now: then
    /// it is sent as soon as it can be. Dropping the future takes nothing back.
    pub async fn announce_key_change(&self, change: KeyChange) {
        self.shared.keys.announce(change).await;
    }

    /// News about keys. Given once. [`KeyChange::Recheck`] comes whenever the link has come up.
    pub fn key_changes(&self) -> mpsc::Receiver<KeyChange> {
        self.shared.key_changes.take()
    }

    /// Claims the prefix for the Hub with this uid. The claim lasts as long as a hub of that Hub renews its lease,
    /// and ends with the last one, so that a Hub made anew under the same name gets the prefix.
    ///
    /// # Errors
    /// Redis is away or refuses.
    pub async fn claim_prefix(&self, hub_uid: &str) -> Result<Claim, Error> {
        Ok(self.shared.leases.claim(self.shared.redis.as_ref(), hub_uid).await?)
    }
}
