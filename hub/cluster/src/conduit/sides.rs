//! This hub's side of each conduit, keyed by the hub at the other end, and what all sides share.
//!
//! Invariants
//! - Messages are handed to the carrier in order, under the lock of their side.
//! - The clock ticks only while something is under way ([`Sides::is_active`]): an idle conduit costs nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alkhub_budget::Budgets;
use alkhub_protocol::HubId;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::message::Header;
use super::peer::{Epochs, Peer};
use crate::carrier::Carriers;
use crate::metrics::Metrics;

/// How many bytes are sent again in one turn; the rest follows in the next.
const TURN_BYTES: usize = 4 * 1024 * 1024;

/// All sides, keyed by the hub at the other end.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) hub: HubId,
    pub(super) carriers: Carriers,
    pub(super) metrics: Metrics,
    budgets: Budgets,
    epochs: Epochs,
    sides: RwLock<HashMap<HubId, Arc<Side>>>,
    /// Conduits that broke at a moment when nobody could be told, with the calls that no carrier has taken.
    broken: Mutex<Vec<(HubId, Vec<Bytes>)>>,
    /// Hubs that are now reached over another carrier: what the previous one had may be lost.
    switched: Mutex<BTreeSet<HubId>>,
    is_active: AtomicBool,
    wake: Notify,
}

/// One side, and the hub at the other end.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) hub: HubId,
    pub(super) known: Mutex<Known>,
}

/// The state of a side.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) peer: Peer,
    /// When the hub was last seen alive.
    pub(super) seen_at: Instant,
}

// === impl Sides ===

impl Sides {
    pub(super) fn new(hub: &HubId, carriers: Carriers, metrics: Metrics, budgets: Budgets) -> Self {
        Self {
            hub: hub.clone(),
            carriers,
            metrics,
            budgets,
            epochs: Epochs::new(start()),
            sides: RwLock::default(),
            broken: Mutex::default(),
            switched: Mutex::default(),
            is_active: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// The side towards a hub, if there is one.
    pub(super) fn known(&self, hub: &str) -> Option<Arc<Side>> {
        self.sides.read().get(hub).cloned()
    }

    /// The side towards a hub, created if there is none.
    pub(super) fn towards(&self, hub: &HubId) -> Arc<Side> {
        if let Some(side) = self.known(hub.as_str()) {
            return side;
        }
        let now = Instant::now();
        let new = || {
            let known = Known {
                peer: Peer::new(&self.epochs, self.budgets.own(), now),
                seen_at: now,
            };
            Arc::new(Side {
                hub: hub.clone(),
                known: Mutex::new(known),
            })
        };
        Arc::clone(self.sides.write().entry(hub.clone()).or_insert_with(new))
    }

    pub(super) fn all(&self) -> Vec<Arc<Side>> {
        self.sides.read().values().cloned().collect()
    }

    /// Forgets the sides for which `is_gone` holds.
    pub(super) fn forget_those(&self, is_gone: impl Fn(&Known) -> bool) {
        self.sides.write().retain(|_, side| !is_gone(&side.known.lock()));
    }

    /// Whether something is under way, so that the clock must tick.
    pub(super) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    /// Starts the clock.
    pub(super) fn activate(&self) {
        if !self.is_active() && !self.is_active.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Stops the clock until something is under way again.
    pub(super) fn rest(&self) {
        self.is_active.store(false, Ordering::Release);
    }

    /// Waits until the clock starts, a hub is reached over another carrier, or a conduit broke when nobody could be
    /// told. Dropping the future loses nothing.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the conduits that broke when nobody could be told, with the calls that no carrier has taken.
    pub(super) fn take_broken(&self) -> Vec<(HubId, Vec<Bytes>)> {
        std::mem::take(&mut *self.broken.lock())
    }

    /// If the conduit to this hub broke when nobody could be told, the caller is told now, and takes the calls that no
    /// carrier has taken.
    pub(super) fn take_broken_of(&self, hub: &HubId) -> Option<Vec<Bytes>> {
        let mut broken = self.broken.lock();
        let of_hub = broken.extract_if(.., |(other, _)| other == hub);
        of_hub.map(|(_, unsent)| unsent).reduce(|mut all, more| {
            all.extend(more);
            all
        })
    }

    /// Notes that a hub is reached over another carrier, so that the reader repeats what may be lost.
    pub(super) fn switched(&self, hub: &HubId) {
        self.switched.lock().insert(hub.clone());
        self.wake.notify_one();
    }

    /// Takes the hubs that are reached over another carrier.
    pub(super) fn take_switched(&self) -> BTreeSet<HubId> {
        std::mem::take(&mut *self.switched.lock())
    }

    /// Notes that the conduit broke and that no carrier has taken these calls, so that the reader is told.
    pub(super) fn broke(&self, hub: &HubId, unsent: Vec<Bytes>) {
        self.broken.lock().push((hub.clone(), unsent));
        self.wake.notify_one();
    }

    /// Gives up the conduit to a hub that acknowledges nothing. Returns the calls that no carrier has taken.
    pub(super) fn give_up(&self, hub: &HubId, peer: &mut Peer) -> Vec<Bytes> {
        let reason = "it acknowledges nothing";
        tracing::warn!(hub.id = %hub, reason, "the conduit to another hub is given up and begins anew");
        self.metrics.conduit_breaks.inc();
        peer.give_up(Instant::now())
    }

    /// Sends a control message, which has no place in the order; if it is lost, it is sent again when it is due.
    pub(super) fn send_control(&self, to: &HubId, header: &Header) {
        let (message, _) = header.encode(&self.hub, &[]);
        if let Err(error) = self.carriers.send(to, message) {
            tracing::debug!(hub.id = %to, %error, "an acknowledgement was not sent to another hub");
        }
    }

    /// Sends again what is due.
    pub(super) fn send_again(&self, hub: &HubId, peer: &mut Peer, now: Instant) {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let Some((place, kind, payload)) = peer.window().take_due(now) else {
                return;
            };
            bytes += payload.len();
            let (message, _) = peer.header(kind, place).encode(&self.hub, &[&payload]);
            if let Err(reason) = self.carriers.send(hub, message) {
                return peer.not_taken(place, reason, now);
            }
            self.metrics.conduit_resent.inc();
        }
    }
}

/// The first epoch: milliseconds since 1970, so that a hub that returns under its old name counts as a new one.
fn start() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}
