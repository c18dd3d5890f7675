//! What comes from other hubs.
//!
//! The task that reads it also drives the conduits: it sends acknowledgements and repetitions.

use std::collections::VecDeque;
use std::sync::Arc;

use alkhub_protocol::admin::PodReport;
use alkhub_protocol::{Delivered, HubId};
use alkhub_redis::{LinkState, Undelivered};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, Interval, MissedTickBehavior, interval};

use super::message::{Header, InvalidMessage, Kind};
use super::peer::Peer;
use super::sides::{Side, Sides};
use crate::inbox::{Inbound, Inbox};
use crate::leases::Leases;

/// The precision of the times of acknowledgements and repetitions.
const TICK: Duration = Duration::from_millis(50);

/// How often to look for hubs that have come or gone.
const LOOK: Duration = Duration::from_secs(1);

/// How long a peer without a lease is remembered: longer than anything that it sent can be on its way.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The messages of other hubs, for one reader.
#[derive(Debug)]
pub struct Incoming {
    sides: Arc<Sides>,
    leases: Arc<Leases>,
    inbox: Inbox,
    returned: mpsc::Receiver<Undelivered>,
    link: Option<watch::Receiver<LinkState>>,
    /// Messages that were read but not processed yet, in reverse order.
    unread: Vec<Bytes>,
    ready: VecDeque<PeerEvent>,
    tick: Interval,
    look: Interval,
}

/// An event of the conduit between this hub and another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A message, in the order in which its hub sent it.
    Message {
        /// The hub that sent it.
        from: HubId,
        /// Its payload.
        payload: Bytes,
    },
    /// A [`Class::Call`](super::Class::Call) that nobody received, and nobody will.
    Returned {
        /// The hub that it was for.
        to: HubId,
        /// The call.
        payload: Bytes,
        /// Whether it came back because nobody listens for that hub ([`Undelivered::nobody_listens`]).
        nobody_listens: bool,
    },
    /// What was under way between this hub and that one may be lost, in both directions. What follows belongs to a
    /// fresh start.
    Broken {
        /// The other hub.
        hub: HubId,
        /// What is surely not received: the messages of [`Class::Call`](super::Class::Call) that no carrier has taken.
        unsent: Vec<Bytes>,
    },
}

// === impl Incoming ===

impl Incoming {
    pub(super) fn new(
        sides: Arc<Sides>,
        leases: Arc<Leases>,
        inbox: Inbox,
        returned: mpsc::Receiver<Undelivered>,
        link: Option<watch::Receiver<LinkState>>,
    ) -> Self {
        let every = |period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            sides,
            leases,
            inbox,
            returned,
            link,
            unread: Vec::new(),
            ready: VecDeque::new(),
            tick: every(TICK),
            look: every(LOOK),
        }
    }

    /// Called when the reader begins: if the link to Redis came up before that, nothing under way is affected.
    pub(crate) fn begin(&mut self) {
        if let Some(link) = &mut self.link {
            link.mark_unchanged();
        }
    }

    /// The next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> PeerEvent {
        loop {
            if let Some(event) = self.ready() {
                return event;
            }
            let is_active = self.sides.is_active();
            tokio::select! {
                Some(inbound) = self.inbox.recv(&mut self.unread) => match inbound {
                    Inbound::Some => self.unread.reverse(),
                    Inbound::Missed => self.send_control_to(|_| true, Peer::missed),
                },
                Some(undelivered) = self.returned.recv() => self.take_back(undelivered),
                state = changed(&mut self.link) => {
                    if state.is_up() {
                        let now = Instant::now();
                        // Messages that go over a link from pod to pod are not affected.
                        self.send_control_to(|hub| !self.sides.carriers.is_linked(hub), |peer| peer.resume(now));
                    }
                }
                _ = self.tick.tick(), if is_active => self.tick(),
                _ = self.look.tick() => self.look(&self.leases.pods()),
                () = self.sides.woken() => {
                    self.resume_switched();
                    let broken = self.sides.take_broken();
                    let event = |(hub, unsent)| PeerEvent::Broken { hub, unsent };
                    self.ready.extend(broken.into_iter().map(event));
                }
            }
        }
    }

    /// The next event, if it has already come. Many come at once, and waiting for each would cost more than handling
    /// it.
    pub fn ready(&mut self) -> Option<PeerEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let message = self.unread.pop()?;
            self.receive(&message);
        }
    }

    /// Processes a message from a carrier.
    fn receive(&mut self, message: &Bytes) {
        let (side, header, payload) = match self.read(message) {
            Ok(read) => read,
            Err(error) => return tracing::warn!(%error, "a message of another hub was not understood"),
        };
        let (sides, from, now) = (&self.sides, &side.hub, Instant::now());
        let mut known = side.known.lock();
        known.seen_at = now;
        if let Some(unsent) = sides.take_broken_of(from) {
            // Must precede what follows, which belongs to a fresh start.
            let hub = from.clone();
            self.ready.push_back(PeerEvent::Broken { hub, unsent });
        }
        let received = known.peer.receive(&header, payload, now);
        if let Some(answer) = received.answer.or_else(|| known.peer.due(now)) {
            sides.send_control(from, &answer);
        }
        sides.send_again(from, &mut known.peer, now);
        let is_idle = known.peer.is_idle();
        drop(known);
        if !is_idle {
            sides.activate();
        }
        if received.broke {
            sides.metrics.conduit_breaks.inc();
            let (hub, unsent) = (from.clone(), received.unsent);
            self.ready.push_back(PeerEvent::Broken { hub, unsent });
        }
        let message = |payload| PeerEvent::Message {
            from: from.clone(),
            payload,
        };
        self.ready.extend(received.payload.map(message));
    }

    /// Decodes a message and finds its side. A hub's name is validated only once.
    fn read(&self, message: &Bytes) -> Result<(Arc<Side>, Header, Bytes), InvalidMessage> {
        let (from, header, payload) = Header::decode(message)?;
        let side = match self.sides.known(from) {
            Some(side) => side,
            None => self.sides.towards(&from.parse().map_err(|_| InvalidMessage)?),
        };
        Ok((side, header, payload))
    }

    /// Takes back a message that nobody received.
    fn take_back(&mut self, undelivered: Undelivered) {
        let Undelivered {
            hub,
            message,
            delivered,
            nobody_listens,
        } = undelivered;
        let Ok((_, header, _)) = Header::decode(&message) else {
            return;
        };
        if delivered != Delivered::No || header.kind != Kind::Data {
            return;
        }
        let side = self.sides.towards(&hub);
        let payload = side.known.lock().peer.withdraw(&header);
        self.ready.extend(payload.map(|payload| PeerEvent::Returned {
            to: hub,
            payload,
            nobody_listens,
        }));
    }

    /// Sends a control message to each hub concerned: a carrier works again, or something that it brought was dropped.
    fn send_control_to(&self, concerned: impl Fn(&HubId) -> bool, header: impl Fn(&mut Peer) -> Header) {
        for side in self.sides.all().into_iter().filter(|side| concerned(&side.hub)) {
            let header = header(&mut side.known.lock().peer);
            self.sides.send_control(&side.hub, &header);
        }
        self.sides.activate();
    }

    /// For hubs that are now reached over another carrier: sends again what the previous one had, and asks for what
    /// came by it.
    fn resume_switched(&self) {
        for hub in self.sides.take_switched() {
            let Some(side) = self.sides.known(hub.as_str()) else {
                continue;
            };
            let (mut known, now) = (side.known.lock(), Instant::now());
            let header = known.peer.resume(now);
            self.sides.send_control(&hub, &header);
            self.sides.send_again(&hub, &mut known.peer, now);
            drop(known);
            self.sides.activate();
        }
    }

    /// Does what is due.
    fn tick(&mut self) {
        // Whatever begins after this makes it active again.
        self.sides.rest();
        let (mut is_active, mut bytes) = (false, 0);
        for side in self.sides.all() {
            let mut known = side.known.lock();
            let (peer, now) = (&mut known.peer, Instant::now());
            let is_down = self.sides.carriers.is_down(&side.hub);
            if is_down {
                peer.window().excuse(now);
            } else if peer.window().is_ignored(now) {
                let unsent = self.sides.give_up(&side.hub, peer);
                let hub = side.hub.clone();
                self.ready.push_back(PeerEvent::Broken { hub, unsent });
            }
            if let Some(header) = peer.due(now) {
                self.sides.send_control(&side.hub, &header);
            }
            if !is_down {
                self.sides.send_again(&side.hub, peer, now);
            }
            is_active |= !peer.is_idle();
            bytes += peer.window().bytes();
        }
        let gauge = &self.sides.metrics.conduit_bytes;
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if is_active {
            self.sides.activate();
        }
    }

    /// Greets hubs that have come, so that one that was taken for gone learns of that, and forgets those that left long
    /// ago.
    fn look(&self, pods: &[PodReport]) {
        let now = Instant::now();
        for pod in pods.iter().filter(|pod| pod.hub_id != self.sides.hub) {
            let is_new = self.sides.known(pod.hub_id.as_str()).is_none();
            let side = self.sides.towards(&pod.hub_id);
            let mut known = side.known.lock();
            known.seen_at = now;
            if is_new || known.peer.is_closed() {
                let hello = known.peer.hello();
                self.sides.send_control(&side.hub, &hello);
            }
        }
        self.sides
            .forget_those(|known| known.peer.is_idle() && now.saturating_duration_since(known.seen_at) > REMEMBERED);
    }
}

/// Waits until the state of the link to Redis changes; for ever if there is no link.
async fn changed(link: &mut Option<watch::Receiver<LinkState>>) -> LinkState {
    if let Some(link) = link
        && link.changed().await.is_ok()
    {
        return link.borrow_and_update().clone();
    }
    std::future::pending().await
}
