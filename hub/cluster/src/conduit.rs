//! One reliable, ordered link between each two hubs, over a carrier that is neither when it breaks.
//!
//! What is sent arrives once and in order, however often the carrier breaks meanwhile; where that cannot be, both sides see
//! a break ([`Incoming::next`] gives [`PeerEvent::Broken`]): whatever was under way between the two hubs is lost then, and they
//! begin anew. So nobody above needs to ask whether a message arrived.
//!
//! It is done by numbers: each message has its place in the sender's order, each message takes an acknowledgement along,
//! and what is not acknowledged is kept and sent again ([`window`], [`peer`]).
//!
//! Invariants
//! - What is kept for a peer is bounded; when much waits calls and items are refused first, ends later, what is small never.
//! - Messages are handed to the carrier in their order, under the lock of their peer.
//! - A conduit that is idle costs nothing.

mod message;
mod peer;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alkhub_protocol::admin::PodReport;
use alkhub_protocol::{Delivered, HubId};
use alkhub_redis::{LinkState, Undelivered};
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Duration, Instant, Interval, MissedTickBehavior, interval};

use crate::carrier::{Carrier, NotSent};
use crate::inbox::{Inbound, Inbox};
use crate::lease::Leases;
use crate::metrics::Metrics;
use message::{Header, Kind};
use peer::{Epochs, Peer};
pub use window::Class;
use window::NoRoom;

/// How exact the times of acknowledgements and repetitions are.
const TICK: Duration = Duration::from_millis(50);

/// How often it is looked for hubs that came and went.
const LOOK: Duration = Duration::from_secs(1);

/// A peer without a lease is remembered for so long: longer than anything that it sent can be on its way.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Bytes that are sent again in one turn; the rest follows in the next.
const TURN_BYTES: usize = 4 * 1024 * 1024;

/// Sends to other hubs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Conduits(Arc<Shared>);

/// What comes from other hubs. Whoever reads it drives the conduits: acknowledgements and repetitions are sent by it.
#[derive(Debug)]
pub struct Incoming {
    conduits: Conduits,
    inbox: Inbox,
    returned: mpsc::Receiver<Undelivered>,
    link: watch::Receiver<LinkState>,
    ready: VecDeque<PeerEvent>,
    tick: Interval,
    look: Interval,
}

/// What comes from other hubs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A message, in the order in which its hub sent it.
    Message {
        /// The hub that sent it.
        from: HubId,
        /// What it sent.
        payload: Bytes,
    },
    /// A [`Class::Call`] that nobody received, and nobody will.
    Returned {
        /// The hub that it was for.
        to: HubId,
        /// The call.
        payload: Bytes,
    },
    /// What was under way between this hub and that one may be lost, in both directions. What follows is of a new
    /// beginning.
    Broken {
        /// The other hub.
        hub: HubId,
    },
}

#[derive(Debug)]
struct Shared {
    hub: HubId,
    carrier: Carrier,
    leases: Arc<Leases>,
    metrics: Metrics,
    epochs: Epochs,
    peers: RwLock<HashMap<HubId, Arc<Mutex<Known>>>>,
    /// Conduits that broke where nobody could be told at once.
    broken: Mutex<Vec<HubId>>,
    /// Whether something is under way, so that the time matters.
    is_active: AtomicBool,
    wake: Notify,
}

/// A peer, and when it was last seen to live.
#[derive(Debug)]
struct Known {
    peer: Peer,
    seen_at: Instant,
}

// === impl Conduits ===

impl Conduits {
    pub(crate) fn new(hub: &HubId, carrier: Carrier, leases: Arc<Leases>, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            hub: hub.clone(),
            carrier,
            leases,
            metrics,
            epochs: Epochs::new(start()),
            peers: RwLock::default(),
            broken: Mutex::default(),
            is_active: AtomicBool::new(false),
            wake: Notify::new(),
        }))
    }

    /// Sends a message, given in parts. Never waits.
    ///
    /// # Errors
    /// It was not taken, and will not arrive. A [`Class::Control`] is always taken, an [`Class::End`] nearly always.
    pub fn send(&self, to: &HubId, class: Class, payload: &[&[u8]]) -> Result<(), NotSent> {
        let known = self.peer(to);
        let mut known = known.lock();
        let now = Instant::now();
        if known.peer.window().is_behind() {
            // What waits to be sent again goes first, and at once where it can.
            self.send_again(to, &mut known.peer, now);
        }
        let bytes = payload.iter().map(|part| part.len()).sum();
        let header = match known.peer.next(class, bytes) {
            Ok(header) => header,
            Err(NoRoom::ForThis) => return Err(NotSent::Full),
            Err(NoRoom::ForAnything) => {
                self.give_up(to, &mut known);
                self.0.broken.lock().push(to.clone());
                self.0.wake.notify_one();
                return Err(NotSent::Full);
            }
        };
        let (message, kept) = header.encode(&self.0.hub, payload);
        let taken = if known.peer.pushed(class, kept, now) {
            self.0.carrier.send(to, message)
        } else if class != Class::Call {
            // Behind others that wait for the carrier.
            Ok(())
        } else if self.0.carrier.is_down() {
            Err(NotSent::Unreachable)
        } else {
            Err(NotSent::Full)
        };
        match taken {
            Ok(()) => {}
            // It can go elsewhere at once.
            Err(reason) if class == Class::Call => {
                known.peer.retract(now);
                return Err(reason);
            }
            Err(_) => known.peer.not_taken(header.sequence, now),
        }
        drop(known);
        self.activate();
        Ok(())
    }

    /// Ends the conduit to a hub that is gone. Should it live after all, it will see a break.
    pub fn forget(&self, hub: &HubId) {
        let known = self.0.peers.read().get(hub).cloned();
        if let Some(known) = known {
            known.lock().peer.forget(Instant::now());
        }
    }

    fn peer(&self, hub: &HubId) -> Arc<Mutex<Known>> {
        if let Some(known) = self.0.peers.read().get(hub) {
            return Arc::clone(known);
        }
        let now = Instant::now();
        let new = || {
            Arc::new(Mutex::new(Known {
                peer: Peer::new(&self.0.epochs, now),
                seen_at: now,
            }))
        };
        Arc::clone(self.0.peers.write().entry(hub.clone()).or_insert_with(new))
    }

    fn all(&self) -> Vec<(HubId, Arc<Mutex<Known>>)> {
        let peers = self.0.peers.read();
        peers
            .iter()
            .map(|(hub, known)| (hub.clone(), Arc::clone(known)))
            .collect()
    }

    /// Makes the time count.
    fn activate(&self) {
        if !self.0.is_active.load(Ordering::Acquire) && !self.0.is_active.swap(true, Ordering::AcqRel) {
            self.0.wake.notify_one();
        }
    }

    /// Sends what has no place in the order; when it is lost it is sent again in its time.
    fn tell(&self, to: &HubId, header: &Header) {
        let (message, _) = header.encode(&self.0.hub, &[]);
        if let Err(error) = self.0.carrier.send(to, message) {
            tracing::debug!(hub.id = %to, %error, "another hub was not told what arrived");
        }
    }

    /// The hub acknowledges nothing.
    fn give_up(&self, hub: &HubId, known: &mut Known) {
        let reason = "it acknowledges nothing";
        tracing::warn!(hub.id = %hub, reason, "the conduit to another hub is given up and begins anew");
        self.0.metrics.conduit_breaks.inc();
        known.peer.give_up(Instant::now());
    }

    /// Takes a message of the carrier.
    fn receive(&self, message: &Bytes, ready: &mut VecDeque<PeerEvent>) {
        let (from, header, payload) = match Header::decode(message) {
            Ok(read) => read,
            Err(error) => return tracing::warn!(%error, "a message of another hub was not understood"),
        };
        let known = self.peer(&from);
        let mut known = known.lock();
        let now = Instant::now();
        known.seen_at = now;
        let received = known.peer.receive(&header, payload, now);
        if let Some(answer) = received.answer.or_else(|| known.peer.due(now)) {
            self.tell(&from, &answer);
        }
        self.send_again(&from, &mut known.peer, now);
        let is_idle = known.peer.is_idle();
        drop(known);
        if !is_idle {
            self.activate();
        }
        if received.broke {
            self.0.metrics.conduit_breaks.inc();
            ready.push_back(PeerEvent::Broken { hub: from.clone() });
        }
        ready.extend(received.payload.map(|payload| PeerEvent::Message { from, payload }));
    }

    /// Takes back what nobody received.
    fn returned(&self, undelivered: Undelivered) -> Option<PeerEvent> {
        let Undelivered {
            hub,
            message,
            delivered,
        } = undelivered;
        let (_, header, _) = Header::decode(&message).ok()?;
        if delivered != Delivered::No || header.kind != Kind::Data {
            return None;
        }
        let known = self.peer(&hub);
        let payload = known.lock().peer.withdraw(&header)?;
        Some(PeerEvent::Returned { to: hub, payload })
    }

    /// Does what is due; whether anything is under way after it.
    fn tick(&self, ready: &mut VecDeque<PeerEvent>) -> bool {
        let is_down = self.0.carrier.is_down();
        let (mut is_active, mut bytes) = (false, 0);
        for (hub, known) in self.all() {
            let mut known = known.lock();
            let now = Instant::now();
            if is_down {
                known.peer.window().excuse(now);
            } else if known.peer.window().is_ignored(now) {
                self.give_up(&hub, &mut known);
                ready.push_back(PeerEvent::Broken { hub: hub.clone() });
            }
            if let Some(header) = known.peer.due(now) {
                self.tell(&hub, &header);
            }
            if !is_down {
                self.send_again(&hub, &mut known.peer, now);
            }
            is_active |= !known.peer.is_idle();
            bytes += known.peer.window().bytes();
        }
        self.0
            .metrics
            .conduit_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        is_active
    }

    fn send_again(&self, hub: &HubId, peer: &mut Peer, now: Instant) {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let Some((place, kind, payload)) = peer.window().take_due(now) else {
                return;
            };
            bytes += payload.len();
            let (message, _) = peer.header(kind, place).encode(&self.0.hub, &[&payload]);
            if self.0.carrier.send(hub, message).is_err() {
                return peer.not_taken(place, now);
            }
            self.0.metrics.conduit_resent.inc();
        }
    }

    /// The carrier works again, or something that it brought was dropped.
    fn tell_all(&self, header: impl Fn(&mut Peer) -> Header) {
        for (hub, known) in self.all() {
            let header = header(&mut known.lock().peer);
            self.tell(&hub, &header);
        }
        self.activate();
    }

    /// Greets hubs that have come, so that one that was taken for gone learns it, and forgets those that went long ago.
    fn look(&self, pods: &[PodReport]) {
        let now = Instant::now();
        for pod in pods.iter().filter(|pod| pod.hub_id != self.0.hub) {
            let is_known = self.0.peers.read().contains_key(&pod.hub_id);
            let known = self.peer(&pod.hub_id);
            let mut known = known.lock();
            known.seen_at = now;
            if !is_known || known.peer.is_closed() {
                let hello = known.peer.hello();
                self.tell(&pod.hub_id, &hello);
            }
        }
        let is_gone = |known: &Mutex<Known>| {
            let known = known.lock();
            known.peer.is_idle() && now.saturating_duration_since(known.seen_at) > REMEMBERED
        };
        self.0.peers.write().retain(|_, known| !is_gone(known));
    }
}

/// Where epochs begin: milliseconds since the epoch, so that a hub that comes again under its old name is a new one.
fn start() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}

// === impl Incoming ===

impl Incoming {
    pub(crate) fn new(
        conduits: &Conduits,
        inbox: Inbox,
        returned: mpsc::Receiver<Undelivered>,
        link: watch::Receiver<LinkState>,
    ) -> Self {
        let every = |period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            conduits: conduits.clone(),
            inbox,
            returned,
            link,
            ready: VecDeque::new(),
            tick: every(TICK),
            look: every(LOOK),
        }
    }

    /// Whoever reads begins now: that the link came up before concerns nothing that is under way.
    pub(crate) fn begin(&mut self) {
        self.link.borrow_and_update();
    }

    /// The next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> PeerEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let is_active = self.conduits.0.is_active.load(Ordering::Acquire);
            tokio::select! {
                Some(inbound) = self.inbox.recv() => match inbound {
                    Inbound::Message(message) => self.conduits.receive(&message, &mut self.ready),
                    Inbound::Missed => self.conduits.tell_all(Peer::missed),
                },
                Some(undelivered) = self.returned.recv() => {
                    self.ready.extend(self.conduits.returned(undelivered));
                }
                Ok(()) = self.link.changed() => {
                    if *self.link.borrow_and_update() == LinkState::Up {
                        let now = Instant::now();
                        self.conduits.tell_all(|peer| peer.resume(now));
                    }
                }
                _ = self.tick.tick(), if is_active => self.tick(),
                _ = self.look.tick() => self.look(),
                () = self.conduits.0.wake.notified() => {
                    let broken = std::mem::take(&mut *self.conduits.0.broken.lock());
                    self.ready.extend(broken.into_iter().map(|hub| PeerEvent::Broken { hub }));
                }
            }
        }
    }

    fn tick(&mut self) {
        // Whatever begins from here on makes it active again.
        self.conduits.0.is_active.store(false, Ordering::Release);
        if self.conduits.tick(&mut self.ready) {
            self.conduits.0.is_active.store(true, Ordering::Release);
        }
    }

    fn look(&mut self) {
        let pods = self.conduits.0.leases.pods();
        self.conduits.look(&pods);
    }
}
