//! Sessions that move from one hub to another: the messages between the hubs, and the tunnel that stays between them.
//!
//! The surface knows which session is meant and what belongs to it; this file carries its messages. A hub that wants a
//! session asks every hub, since none has to remember where a session is. The hub that has it gives it up, and from
//! then on the outbox there leads into the tunnel: calls that ran when the session moved end where they were entered,
//! in the order in which they would have ended anyway.
//!
//! Invariants
//! - The messages of one session keep their order, because the conduit between two hubs keeps it.
//! - When the conduit breaks, or a hub is gone, both ends of each tunnel between the two learn of it. A tunnel whose
//!   messages were not accepted is as good as broken.
//! - Messages of other hubs wait for the surface's task in a bounded queue, which is charged to the hub and never holds
//!   up the calls of other hubs.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use alkhub_budget::{Budgets, Exhausted, Held, Kept};
use alkhub_hub_cluster::{Class, Cluster, NotSent};
use alkhub_protocol::HubId;
use alkhub_queue::{Full, Limits, Queue, Waiter, Weigh};
use parking_lot::Mutex;

use crate::relay::Relay;
use crate::session::message::SessionMessage;
use crate::session::outbox::{DeliveryState, Elsewhere, Outgoing, PassedKind, PassedMessage};

/// The most that waits for the surface: a session may come with everything that its queues hold, all at once.
const WAITING: Limits = Limits {
    items: 65_536,
    bytes: 64 * 1024 * 1024,
};

/// The approximate cost of a message besides its bytes.
const MESSAGE_BYTES: usize = 128;

/// The messages of other hubs about sessions, and this hub's answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Moves(Arc<Shared>);

/// Names a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelId {
    /// The hub at its other end.
    pub hub: HubId,
    /// Its number, given by the hub that the session leaves.
    pub number: u64,
}

/// What comes from other hubs.
#[derive(Debug)]
pub enum SessionEvent {
    /// A message from a hub.
    Message {
        /// The hub that sent it.
        from: HubId,
        /// The message.
        message: SessionMessage,
    },
    /// A claim has come back: the hub that it was for has not received it.
    Returned {
        /// That hub.
        hub: HubId,
        /// The number of the claim.
        claim: u64,
        /// Whether it came back because nobody listens for that hub. Otherwise its return says nothing about the hub.
        nobody_listens: bool,
    },
    /// Nothing that was under way between this hub and that one goes on.
    Lost {
        /// That hub.
        hub: HubId,
    },
}

#[derive(Debug)]
struct Shared {
    hub: HubId,
    cluster: Cluster,
    relay: Arc<Relay>,
    waiting: Mutex<Waiting>,
    tunnels: AtomicU64,
    /// The hubs that a session has gone to or come from, since each of them was last lost.
    partners: Mutex<HashSet<HubId>>,
}

/// The messages of other hubs that the surface's task has not taken yet.
#[derive(Debug)]
struct Waiting {
    queue: Queue<SessionEvent>,
    held: Held,
    /// Hubs that had a message for which there was no room: their messages are dropped until the task knows.
    overflowed: HashSet<HubId>,
}

/// The path by which a session's messages get to the hub that goes on with it.
#[derive(Debug)]
struct Tunnel {
    moves: Moves,
    id: TunnelId,
}

// === impl Moves ===

impl Moves {
    pub(crate) fn new(hub: HubId, cluster: Cluster, relay: Arc<Relay>, budgets: &Budgets) -> Self {
        Self(Arc::new(Shared {
            hub,
            cluster,
            relay,
            waiting: Mutex::new(Waiting::new(budgets)),
            tunnels: AtomicU64::new(1),
            partners: Mutex::default(),
        }))
    }

    /// The other live hubs.
    pub fn others(&self) -> Vec<HubId> {
        let pods = self.0.cluster.pods();
        let others = pods.iter().map(|pod| &pod.hub_id);
        others.filter(|hub| **hub != self.0.hub).cloned().collect()
    }

    /// Whether there is another live hub that does not drain, on which sessions of this one can go on.
    pub fn has_refuge(&self) -> bool {
        let pods = self.0.cluster.pods();
        pods.iter().any(|pod| pod.hub_id != self.0.hub && !pod.draining)
    }

    /// A number for a tunnel from this hub; no number is given twice.
    pub fn new_tunnel(&self) -> u64 {
        self.0.tunnels.fetch_add(1, Ordering::Relaxed)
    }

    /// Says something to another hub; never waits.
    ///
    /// # Errors
    /// [`Full`]: it was not accepted. Small messages always are, except claims: they are refused while there is no way
    /// to the hub, too.
    pub fn say(&self, to: &HubId, message: SessionMessage) -> Result<(), Full> {
        let class = class(&message);
        let (line, rest) = message.encode();
        let sent = self.0.relay.say(to, class, line.as_bytes(), &rest);
        sent.map_err(|(NotSent::Full | NotSent::Exhausted | NotSent::Unreachable)| Full::Queue)
    }

    /// Passes a session's messages to another hub, through a tunnel: those that its peer lacks by `begin`, then those
    /// that the writer has `kept`, then those that wait, and from now on whatever is pushed.
    ///
    /// # Errors
    /// [`Full`]: something was not accepted, and the session cannot go on anywhere.
    pub fn leave(
        &self,
        outgoing: &mut Outgoing,
        tunnel: TunnelId,
        kept: Vec<bytes::Bytes>,
        begin: impl FnOnce(DeliveryState) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.0.partners.lock().insert(tunnel.hub.clone());
        let elsewhere = Arc::new(Tunnel {
            moves: self.clone(),
            id: tunnel,
        });
        outgoing.leave(elsewhere, kept, begin)
    }

    /// The next event. Only one task may ask. Dropping the future loses nothing.
    pub async fn next(&self) -> SessionEvent {
        std::future::poll_fn(|cx| {
            let mut waiting = self.0.waiting.lock();
            let next = std::task::ready!(waiting.poll(cx)).expect("the queue never ends");
            if let SessionEvent::Lost { hub } = &next {
                waiting.overflowed.remove(hub);
            }
            Poll::Ready(next)
        })
        .await
    }

    /// Takes a message of another hub; never waits.
    pub(crate) fn received(&self, from: HubId, message: SessionMessage) {
        if matches!(message, SessionMessage::Handed { .. }) {
            self.0.partners.lock().insert(from.clone());
        }
        let event = SessionEvent::Message {
            from: from.clone(),
            message,
        };
        self.add(from, event);
    }

    /// Takes back a claim that was for another hub, which has not received it; never waits.
    pub(crate) fn came_back(&self, hub: HubId, claim: u64, nobody_listens: bool) {
        let event = SessionEvent::Returned {
            hub: hub.clone(),
            claim,
            nobody_listens,
        };
        self.add(hub, event);
    }

    /// Adds an event that concerns a hub; without room for it, that hub counts as lost.
    fn add(&self, hub: HubId, event: SessionEvent) {
        let mut waiting = self.0.waiting.lock();
        if waiting.overflowed.contains(&hub) {
            return;
        }
        let waiter = waiting.push(event).unwrap_or_else(|reason| {
            tracing::warn!(hub.id = %hub, reason, "what another hub says of sessions has no room");
            waiting.overflowed.insert(hub.clone());
            waiting.queue.add(SessionEvent::Lost { hub })
        });
        drop(waiting);
        waiter.wake();
    }

    /// The hubs to which tunnels may be open: if one of them goes silently, nothing else might show it.
    pub(crate) fn partners(&self) -> HashSet<HubId> {
        self.0.partners.lock().clone()
    }

    /// Nothing that was under way between this hub and another one goes on any more.
    pub(crate) fn lost(&self, hub: HubId) {
        self.0.partners.lock().remove(&hub);
        let waiter = self.0.waiting.lock().queue.add(SessionEvent::Lost { hub });
        waiter.wake();
    }
}

// === impl Waiting ===

impl Waiting {
    fn new(budgets: &Budgets) -> Self {
        Self {
            queue: Queue::new(),
            held: budgets.own().nothing(Kept::Moves),
            overflowed: HashSet::new(),
        }
    }

    /// Adds an event, or says why there is no room.
    fn push(&mut self, event: SessionEvent) -> Result<Waiter, String> {
        let bytes = event.bytes();
        self.queue
            .room(bytes, WAITING)
            .map_err(|_| "sessions come faster than they are taken".to_owned())?;
        let charged = self.held.follow(self.queue.bytes() + bytes);
        charged.map_err(|exhausted: Exhausted| exhausted.to_string())?;
        Ok(self.queue.add(event))
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<SessionEvent>> {
        let next = self.queue.poll(cx);
        self.held.ease(self.queue.bytes());
        next
    }
}

// === impl Tunnel ===

impl Elsewhere for Tunnel {
    fn pass(&self, passed: PassedMessage) -> Result<(), Full> {
        let tunnel = self.id.number;
        self.moves.say(&self.id.hub, SessionMessage::ToPeer { tunnel, passed })
    }

    fn done(&self, leg: &str) {
        let (tunnel, leg) = (self.id.number, leg.to_owned());
        if self
            .moves
            .say(&self.id.hub, SessionMessage::Done { tunnel, leg })
            .is_err()
        {
            tracing::warn!(hub.id = %self.id.hub, "too much waits for another hub");
        }
    }
}

impl Weigh for SessionEvent {
    fn bytes(&self) -> usize {
        let rest = match self {
            Self::Message { message, .. } => match message {
                SessionMessage::Part { state, .. } | SessionMessage::Handed { state, .. } => state.len(),
                SessionMessage::Again { message, .. } | SessionMessage::FromPeer { message, .. } => message.len(),
                SessionMessage::ToPeer { passed, .. } => passed.message.len(),
                SessionMessage::Claim { .. }
                | SessionMessage::Unknown { .. }
                | SessionMessage::Refused { .. }
                | SessionMessage::Whole { .. }
                | SessionMessage::Done { .. }
                | SessionMessage::Closed { .. }
                | SessionMessage::Left { .. } => 0,
            },
            Self::Returned { .. } | Self::Lost { .. } => 0,
        };
        MESSAGE_BYTES + rest
    }

    fn counts(&self) -> bool {
        matches!(self, Self::Message { .. } | Self::Returned { .. })
    }
}

/// The class of a message, which decides how it is accepted when much waits for the other hub.
fn class(message: &SessionMessage) -> Class {
    match message {
        // A claim comes back at once if no hub takes it.
        SessionMessage::Claim { .. } => Class::Call,
        SessionMessage::ToPeer { passed, .. } => match passed.kind {
            PassedKind::Call | PassedKind::Item => Class::Item,
            PassedKind::Message | PassedKind::Last | PassedKind::End | PassedKind::LastEnd => Class::End,
        },
        SessionMessage::Part { .. }
        | SessionMessage::Handed { .. }
        | SessionMessage::Again { .. }
        | SessionMessage::FromPeer { .. } => Class::End,
        SessionMessage::Unknown { .. }
        | SessionMessage::Refused { .. }
        | SessionMessage::Whole { .. }
        | SessionMessage::Done { .. }
        | SessionMessage::Closed { .. }
        | SessionMessage::Left { .. } => Class::Control,
    }
}
