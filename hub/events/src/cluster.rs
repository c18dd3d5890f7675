//! What the hubs of one prefix tell each other: who is there, which instance is where, relayed calls, revoked keys.
//!
//! Without Redis the same API serves the one hub in this process.
//!
//! Invariants
//! - The state of this hub (its lease, its directory entries) is kept here and asserted again whenever Redis may have
//!   lost it; Redis is never the only one to know it.
//! - A receiver is given once; asked again, the methods give one that is closed.

mod directory;
mod inbox;
mod keys;
mod lease;

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use alkhub_config::EventsConfig;
use alkhub_protocol::admin::PodReport;
use alkhub_protocol::register::SpokeType;
use alkhub_protocol::{Delivered, HubId, InstanceId, OperationName, RawJson, SpokeName};
use alkhub_tasks::Supervisor;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::channel::Names;
use crate::metrics::Metrics;
use crate::target::redis::{Redis, Routes};
use crate::{Error, LinkState};
use directory::Directory;
pub(crate) use directory::Feed;
pub(crate) use inbox::InboxSender;
use inbox::Relay;
pub use inbox::{Inbound, Inbox};
pub(crate) use keys::Keys;
use lease::Leases;

/// Changes that wait for their reader; beyond it the reader gets a snapshot.
const CHANGES: usize = 4_096;

/// One connected instance of a spoke: the record that is fenced by its generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryEntry {
    /// The declared spoke.
    pub spoke: SpokeName,
    /// The running program.
    pub instance: InstanceId,
    /// The hub that holds its connection.
    pub hub: HubId,
    /// The connection, named by that hub.
    pub connection: String,
    /// The fencing number; [`Cluster::register`] sets it. Later registrations have higher ones; two hubs that were both
    /// cut off from Redis may give the same, so records are compared by their [`Fence`].
    #[serde(default)]
    pub generation: u64,
    /// Kind of spoke.
    #[serde(default)]
    pub spoke_type: SpokeType,
    /// Free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Calls that it takes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// When it connected.
    pub connected_at: Timestamp,
    /// What it said of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_info: Option<RawJson>,
    /// What it offers.
    #[serde(default)]
    pub operations: Vec<OfferedOperation>,
}

/// Which of two records of an instance counts: the higher one. No two records have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence<'a> {
    /// [`DirectoryEntry::generation`].
    pub generation: u64,
    /// Decides between hubs that gave the same generation, byte by byte.
    pub hub: &'a HubId,
}

/// An operation that an instance offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedOperation {
    /// `namespace.name`.
    pub name: OperationName,
    /// Hash of its specification, in hexadecimal.
    pub hash: String,
}

/// A change of the directory.
#[derive(Clone, Debug, PartialEq)]
pub enum DirectoryChange {
    /// Everything that is there: what was known before is void. Comes first, and whenever changes may be missing.
    Snapshot(Vec<DirectoryEntry>),
    /// An instance came, moved or offers other operations.
    Put(DirectoryEntry),
    /// An instance left.
    Remove {
        /// The spoke.
        spoke: SpokeName,
        /// Its instance.
        instance: InstanceId,
        /// The generation that ended, and those before it.
        generation: u64,
        /// The hub that held it.
        hub: HubId,
    },
    /// A hub is gone, and with it every entry that it held.
    HubGone(HubId),
}

/// What a hub says of itself in its lease.
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

/// A message for another hub that came back.
#[derive(Clone, Debug)]
pub struct Undelivered {
    /// The hub that it was for.
    pub hub: HubId,
    /// The message.
    pub message: Bytes,
    /// `No`: nobody received it. `Maybe`: the link broke while it was on its way, and
    /// [`LinkState::Down`](crate::LinkState) was the sign.
    pub delivered: Delivered,
}

/// News about keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyChange {
    /// The keys with these ids are void.
    Revoked(Vec<String>),
    /// News may have been missed: every cached key has to be looked up again.
    Recheck,
}

/// Who holds the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The Hub that asked.
    Mine,
    /// The Hub with this uid.
    Taken(String),
}

/// The other hubs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: Directory,
    relay: Relay,
    leases: Arc<Leases>,
    keys: Keys,
    changes: Given<DirectoryChange>,
    inbox: Mutex<Option<Inbox>>,
    undeliverable: Given<Undelivered>,
    link: watch::Receiver<LinkState>,
    key_changes: Given<KeyChange>,
}

/// A receiver that is given once.
#[derive(Debug)]
struct Given<T>(Mutex<Option<mpsc::Receiver<T>>>);

/// Both ends of the queue of messages that came back.
pub(crate) type Returns = (mpsc::Sender<Undelivered>, mpsc::Receiver<Undelivered>);

/// What [`start`] needs.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a EventsConfig,
    pub(crate) hub: &'a HubId,
    pub(crate) names: Arc<Names>,
    pub(crate) redis: Option<Redis>,
    pub(crate) metrics: Metrics,
    /// Where messages come back that nobody received.
    pub(crate) undeliverable: Returns,
}

/// Starts the tasks of the cluster; the routes are what the link brings.
pub(crate) fn start(parts: Parts<'_>, supervisor: &Supervisor) -> (Cluster, Routes) {
    let Parts {
        config,
        hub,
        names,
        redis,
        metrics,
        undeliverable: (returned, undeliverable),
    } = parts;
    let (inbox_sender, inbox) = inbox::channel();
    let (changes_sender, changes) = mpsc::channel(CHANGES);
    let leases = Arc::new(Leases::new(config, hub, names.clone(), metrics));
    let (directory, feed, actor) = directory::new(directory::Parts {
        hub,
        names: names.clone(),
        redis: redis.clone(),
        leases: leases.clone(),
        changes: changes_sender,
    });
    let link = redis
        .as_ref()
        .map_or_else(|| watch::channel(LinkState::Local).1, |redis| redis.link().state());
    let (keys, keys_parts) = keys::new(hub, names, redis.clone());
    let relay = Relay::new(hub, redis.clone(), inbox_sender.clone(), returned);
    let stop = || supervisor.stop().clone();
    supervisor.keep("events.directory", actor.run(stop()));
    supervisor.keep("events.keys", keys_parts.announcer.run(stop()));
    if let Some(teller) = keys_parts.teller {
        supervisor.keep("events.told-keys", teller.run(stop()));
    }
    if let Some(redis) = redis {
        let hold = redis.link().hold_for_lease();
        supervisor.keep("events.lease", lease::keep(leases.clone(), redis, stop(), hold));
    }
    let routes = Routes {
        inbox: inbox_sender,
        feed,
        keys: keys.clone(),
    };
    let shared = Shared {
        directory,
        relay,
        leases,
        keys,
        changes: Given::new(changes),
        inbox: Mutex::new(Some(inbox)),
        undeliverable: Given::new(undeliverable),
        link,
        key_changes: Given::new(keys_parts.changes),
    };
    (
        Cluster {
            shared: Arc::new(shared),
        },
        routes,
    )
}

// === impl DirectoryEntry ===

impl DirectoryEntry {
    /// What decides between this record of the instance and another.
    pub fn fence(&self) -> Fence<'_> {
        Fence {
            generation: self.generation,
            hub: &self.hub,
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Records an instance that this hub holds and returns its generation: one more than the highest that was ever
    /// given in the directory, and at least the clock in milliseconds, so that no restart of Redis runs it backwards.
    ///
    /// While Redis is away, refuses, or does not answer in `events.timeout`, the generation is this hub's own, beyond
    /// every one that it has seen, and the entry is asserted when Redis is back.
    /// Dropping the future does not take the entry back.
    ///
    /// # Errors
    /// Only when the fabric has ended.
    pub async fn register(&self, entry: DirectoryEntry) -> Result<u64, Error> {
        self.register_unless(&CancellationToken::new(), entry).await
    }

    /// [`Cluster::register`], unless the token is cancelled before its turn among the changes of this hub comes: an
    /// instance that has come back on this hub has the higher generation, however long its first registration waited.
    ///
    /// # Errors
    /// It was cancelled in time, or the fabric has ended.
    pub async fn register_unless(&self, gone: &CancellationToken, entry: DirectoryEntry) -> Result<u64, Error> {
        self.shared.directory.register(entry, gone).await
    }

    /// Takes the record of an instance away, unless a later generation has taken its place.
    ///
    /// # Errors
    /// Only when the fabric has ended. While Redis is away the record is removed when it is back.
    pub async fn unregister(&self, spoke: &SpokeName, instance: &InstanceId, generation: u64) -> Result<(), Error> {
        self.shared.directory.unregister(spoke, instance, generation).await
    }

    /// The directory of all hubs, from now on. The first item is a snapshot; a reader that falls behind, and every
    /// one when changes may have been missed, gets a snapshot instead of changes. Given once.
    pub fn directory(&self) -> mpsc::Receiver<DirectoryChange> {
        self.shared.changes.take()
    }

    /// Relays a message to a hub. What nobody receives comes back through [`Cluster::undeliverable`], and so does what
    /// this hub was sending when its link broke; what the other hub has not read when its own link breaks is lost, and
    /// its [`LinkState::Down`](crate::LinkState) is the sign.
    ///
    /// # Errors
    /// At once while the link is down, or when too much waits.
    pub fn send(&self, to: &HubId, message: Bytes) -> Result<(), Error> {
        self.shared.relay.send(to, message)
    }

    /// Messages relayed to this hub. Given once.
    ///
    /// A reader that is slower than they come is told that it missed some; events and the directory go on.
    pub fn inbox(&self) -> Inbox {
        self.shared.inbox.lock().take().unwrap_or_else(Inbox::closed)
    }

    /// Messages of this hub that nobody received, or perhaps nobody. Given once.
    pub fn undeliverable(&self) -> mpsc::Receiver<Undelivered> {
        self.shared.undeliverable.take()
    }

    /// How the link to the other hubs is, now and later.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.shared.link.clone()
    }

    /// Says what this hub's lease holds from now on. The lease itself is kept from the start and given back at the
    /// end, whether or not this was called.
    pub fn announce(&self, lease: Lease) {
        self.shared.leases.announce(lease);
    }

    /// [`Cluster::announce`], and returns when Redis has told the other hubs. Dropping the future leaves it to the next
    /// renewal, and so does an error.
    ///
    /// # Errors
    /// Redis is away, refuses, or does not answer in `events.timeout`.
    pub async fn announce_now(&self, lease: Lease) -> Result<(), Error> {
        lease::announce_now(&self.shared.leases, self.shared.relay.redis(), lease).await
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

    /// Tells every hub that keys changed, this one included. Returns when Redis has it, or could not be told now: then
    /// it is told as soon as it can be. Dropping the future takes nothing back.
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
        self.shared.leases.claim(self.shared.relay.redis(), hub_uid).await
    }
}

// === impl Given ===

impl<T> Given<T> {
    fn new(receiver: mpsc::Receiver<T>) -> Self {
        Self(Mutex::new(Some(receiver)))
    }

    fn take(&self) -> mpsc::Receiver<T> {
        self.0.lock().take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}
