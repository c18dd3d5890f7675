//! Sessions that move from one hub to another: what the hubs say to each other, and the tunnel that stays between them.
//!
//! Which session is meant and what it is made of is the surface's; here is how its words pass. Whoever asks for a session
//! asks every hub, since none has to remember where a session is. The hub that has it gives it up, and from then on its
//! outbox there leads into the tunnel: calls that ran when the session moved end where they were entered, in the order in
//! which they would have.
//!
//! Invariants
//! - Messages of one session pass in their order: the conduit between two hubs keeps it.
//! - When the conduit breaks, or a hub is gone, both ends of each tunnel between the two learn it, and a tunnel whose messages
//!   were not taken is as good as broken.
//! - What comes waits in a bounded queue for the surface's task, charged to the hub, and never holds up the calls of other hubs.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use alkhub_budget::{Budgets, Exhausted, Held, Kept};
use alkhub_hub_cluster::{Class, Cluster, NotSent};
use alkhub_protocol::HubId;
use alkhub_queue::{Full, Limits, Queue, Waiter, Weigh};
use parking_lot::Mutex;

use crate::outbox::{Elsewhere, LeftOver, Outgoing, Said, SaidKind};
use crate::relay::Relay;
use crate::session_message::SessionMessage;

/// What waits for the surface at most; a session comes as fast as its ring and its queue are large.
const WAITING: Limits = Limits {
    items: 65_536,
    bytes: 64 * 1024 * 1024,
};

/// What a message costs beside its bytes, about.
const MESSAGE_BYTES: usize = 128;

/// What other hubs say of sessions, and how to answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Moves(Arc<Shared>);

/// What comes from other hubs.
#[derive(Debug)]
pub enum SessionEvent {
    /// A hub says something.
    Message {
        /// Which hub.
        from: HubId,
        /// What.
        message: SessionMessage,
    },
    /// Nothing that was under way between this hub and that one goes on.
    Lost {
        /// Which hub.
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
    /// Hubs that a session has gone to, or come from, since they were last lost.
    partners: Mutex<HashSet<HubId>>,
}

/// What other hubs have said and the surface's task has not taken.
#[derive(Debug)]
struct Waiting {
    queue: Queue<SessionEvent>,
    held: Held,
    /// Hubs of which something found no room: what they say is dropped until the task knows.
    overflowed: HashSet<HubId>,
}

/// The way of a session's words to the hub that goes on with it.
#[derive(Debug)]
struct Tunnel {
    moves: Moves,
    to: HubId,
    number: u64,
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

    /// The other hubs that live.
    pub fn others(&self) -> Vec<HubId> {
        let pods = self.0.cluster.pods();
        let others = pods.iter().map(|pod| &pod.hub_id);
        others.filter(|hub| **hub != self.0.hub).cloned().collect()
    }

    /// Whether another hub lives that does not drain: sessions of this one can go on there.
    pub fn has_refuge(&self) -> bool {
        let pods = self.0.cluster.pods();
        pods.iter().any(|pod| pod.hub_id != self.0.hub && !pod.draining)
    }

    /// A number for a tunnel from this hub, given once.
    pub fn new_tunnel(&self) -> u64 {
        self.0.tunnels.fetch_add(1, Ordering::Relaxed)
    }

    /// Says something to another hub; never waits.
    ///
    /// # Errors
    /// [`Full`]: it was not taken. What is small always is.
    pub fn say(&self, to: &HubId, message: SessionMessage) -> Result<(), Full> {
        let sent = self.ask(to, message);
        sent.map_err(|(NotSent::Full | NotSent::Exhausted | NotSent::Unreachable)| Full::Queue)
    }

    /// [`Moves::say`] to whoever must know why it was not taken.
    ///
    /// # Errors
    /// [`NotSent`].
    pub fn ask(&self, to: &HubId, message: SessionMessage) -> Result<(), NotSent> {
        let class = class(&message);
        let (line, rest) = message.encode();
        self.0.relay.say(to, class, line.as_bytes(), &rest)
    }

    /// Gives a session's words to another hub, by a tunnel of this number: what its peer lacks by `begin`, then what the writer
    /// has `kept`, then what waits, and whatever is said from now on.
    ///
    /// # Errors
    /// [`Full`]: something was not taken, and the session cannot go on anywhere.
    pub fn leave(
        &self,
        outgoing: &mut Outgoing,
        (to, tunnel): (&HubId, u64),
        kept: Vec<bytes::Bytes>,
        begin: impl FnOnce(LeftOver) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.0.partners.lock().insert(to.clone());
        let elsewhere = Arc::new(Tunnel {
            moves: self.clone(),
            to: to.clone(),
            number: tunnel,
        });
        outgoing.leave(elsewhere, kept, begin)
    }

    /// The next thing that another hub says. One task asks. Dropping the future loses nothing.
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

    /// A hub has said something; never waits.
    pub(crate) fn heard(&self, from: HubId, message: SessionMessage) {
        if matches!(message, SessionMessage::Handed { .. }) {
            self.0.partners.lock().insert(from.clone());
        }
        let mut waiting = self.0.waiting.lock();
        if waiting.overflowed.contains(&from) {
            return;
        }
        let event = SessionEvent::Message {
            from: from.clone(),
            message,
        };
        let waiter = waiting.push(event).unwrap_or_else(|reason| {
            tracing::warn!(hub.id = %from, reason, "what another hub says of sessions has no room");
            waiting.overflowed.insert(from.clone());
            waiting.queue.add(SessionEvent::Lost { hub: from })
        });
        drop(waiting);
        waiter.wake();
    }

    /// The hubs with which tunnels may be open: if one of them goes without a word, nothing else may show it.
    pub(crate) fn partners(&self) -> HashSet<HubId> {
        self.0.partners.lock().clone()
    }

    /// Nothing that was under way between this hub and another one goes on.
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

    /// Adds what a hub says; why it has no room.
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
    fn say(&self, said: Said) -> Result<(), Full> {
        let tunnel = self.number;
        self.moves.say(&self.to, SessionMessage::Said { tunnel, said })
    }

    fn done(&self, leg: &str) {
        let (tunnel, leg) = (self.number, leg.to_owned());
        if self.moves.say(&self.to, SessionMessage::Done { tunnel, leg }).is_err() {
            tracing::warn!(hub.id = %self.to, "too much waits for another hub");
        }
    }
}

impl Weigh for SessionEvent {
    fn bytes(&self) -> usize {
        let rest = match self {
            Self::Message { message, .. } => match message {
                SessionMessage::Part { state, .. } | SessionMessage::Handed { state, .. } => state.len(),
                SessionMessage::Again { message, .. } | SessionMessage::Heard { message, .. } => message.len(),
                SessionMessage::Said { said, .. } => said.message.len(),
                SessionMessage::Claim { .. }
                | SessionMessage::Unknown { .. }
                | SessionMessage::Refused { .. }
                | SessionMessage::Whole { .. }
                | SessionMessage::Done { .. }
                | SessionMessage::Closed { .. }
                | SessionMessage::Left { .. } => 0,
            },
            Self::Lost { .. } => 0,
        };
        MESSAGE_BYTES + rest
    }

    fn counts(&self) -> bool {
        matches!(self, Self::Message { .. })
    }
}

/// How a message is taken when much waits for the other hub.
fn class(message: &SessionMessage) -> Class {
    match message {
        // It comes back at once when no hub takes it.
        SessionMessage::Claim { .. } => Class::Call,
        SessionMessage::Said { said, .. } => match said.kind {
            SaidKind::Call | SaidKind::Item => Class::Item,
            SaidKind::Message | SaidKind::Last | SaidKind::End | SaidKind::LastEnd => Class::End,
        },
        SessionMessage::Part { .. }
        | SessionMessage::Handed { .. }
        | SessionMessage::Again { .. }
        | SessionMessage::Heard { .. } => Class::End,
        SessionMessage::Unknown { .. }
        | SessionMessage::Refused { .. }
        | SessionMessage::Whole { .. }
        | SessionMessage::Done { .. }
        | SessionMessage::Closed { .. }
        | SessionMessage::Left { .. } => Class::Control,
    }
}
