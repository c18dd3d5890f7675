//! One side of the conduit to one other hub: a state machine without I/O.
//!
//! Each side counts its own *epochs*: one ends when what was under way in it can no longer be relied on. A side that
//! learns that the other has begun a new epoch, not knowing of this one's, begins a new one too: so both sides see a break,
//! each once.
//!
//! Invariants
//! - Within an epoch of its sender a message is delivered once, in order, or not at all, and then nothing after it is.
//! - Nothing of an ended epoch is delivered any more: neither late nor again.
//! - The state of a peer that is gone stays small, and refuses messages that the peer still sends from its past.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alkhub_budget::Budget;
use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::message::{Header, Kind, PeerEpoch};
use super::window::{Class, NoRoom, Window};
use crate::carrier::NotSent;

/// An acknowledgement waits so long for a message to ride on ...
const ACK_PAUSE: Duration = Duration::from_millis(100);

/// ... unless so many messages, or bytes, are unacknowledged.
const ACK_MESSAGES: u64 = 128;
const ACK_BYTES: usize = 1024 * 1024;

/// Between two complaints about the same gap.
const NACK_PAUSE: Duration = Duration::from_millis(200);

/// Gives each epoch of this hub its number: counted up from a start that grows with each start of the process.
#[derive(Clone, Debug)]
pub(super) struct Epochs(Arc<AtomicU64>);

/// One side of a conduit.
#[derive(Debug)]
pub(super) struct Peer {
    epochs: Epochs,
    epoch: u64,
    inbound: Inbound,
    budget: Budget,
    window: Window,
    acks: Acks,
}

/// The state of what the peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inbound {
    /// Nothing has come.
    Fresh,
    /// Of this epoch of the peer everything up to a place has arrived.
    Open { epoch: u64, received: u64 },
    /// Messages that the peer sends in this epoch, or in an earlier one, are refused.
    Closed { epoch: u64 },
}

/// Messages of the peer that are to be acknowledged.
#[derive(Debug, Default)]
struct Acks {
    messages: u64,
    bytes: usize,
    /// When it is acknowledged at the latest.
    at: Option<Instant>,
    /// Something is missing; complained of last at this time.
    gap: Option<Instant>,
}

/// The result of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// The conduit broke before it: what was under way, both ways, is lost.
    pub(super) broke: bool,
    /// A payload.
    pub(super) payload: Option<Bytes>,
    /// The answer that goes back at once.
    pub(super) answer: Option<Header>,
}

// === impl Epochs ===

impl Epochs {
    pub(super) fn new(start: u64) -> Self {
        Self(Arc::new(AtomicU64::new(start)))
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

// === impl Peer ===

impl Peer {
    pub(super) fn new(epochs: &Epochs, budget: Budget, now: Instant) -> Self {
        Self {
            epochs: epochs.clone(),
            epoch: epochs.next(),
            inbound: Inbound::Fresh,
            window: Window::new(&budget, now),
            budget,
            acks: Acks::default(),
        }
    }

    pub(super) fn window(&mut self) -> &mut Window {
        &mut self.window
    }

    /// The header of the next message, which takes the acknowledgements along; [`Peer::pushed`] follows.
    pub(super) fn next(&mut self, class: Class, bytes: usize) -> Result<Header, NoRoom> {
        self.window.make_room(class, bytes)?;
        let place = self.window.next();
        Ok(self.header(Kind::Data, place))
    }

    /// Notes a message that got its header from [`Peer::next`]; whether it may be handed to the carrier now.
    pub(super) fn pushed(&mut self, class: Class, payload: Bytes, now: Instant) -> bool {
        self.window.push(class, payload, now)
    }

    /// A message in its place, or one without.
    pub(super) fn header(&mut self, kind: Kind, sequence: u64) -> Header {
        let (peer_epoch, acknowledged) = match self.inbound {
            Inbound::Fresh => (PeerEpoch::Unknown, 0),
            Inbound::Open { epoch, received } => (PeerEpoch::Open(epoch), received),
            Inbound::Closed { epoch } => (PeerEpoch::Closed(epoch), 0),
        };
        self.acks.sent();
        Header {
            kind,
            epoch: self.epoch,
            peer_epoch,
            sequence,
            acknowledged,
        }
    }

    /// Takes what the peer sent.
    pub(super) fn receive(&mut self, header: &Header, payload: Bytes, now: Instant) -> Received {
        let mut received = Received::default();
        if header.peer_epoch == PeerEpoch::Closed(self.epoch) {
            self.break_off(self.inbound.after_refusal(header.epoch), &mut received, now);
        }
        match self.accepts(header) {
            Accepts::Yes => {}
            Accepts::Anew => {
                self.inbound = Inbound::open(header.epoch);
                self.acks = Acks::default();
            }
            Accepts::Broken => self.break_off(Inbound::open(header.epoch), &mut received, now),
            Accepts::Ignored => return received,
            Accepts::Refused => {
                if let Inbound::Fresh = self.inbound {
                    self.inbound = Inbound::Closed { epoch: header.epoch };
                }
                received.answer = Some(self.header(Kind::Ack, 0));
                return received;
            }
        }
        self.acknowledged(header, now);
        if header.kind.is_ordered() {
            self.ordered(header, payload, &mut received, now);
        }
        received
    }

    /// Forgets the peer, which is gone: what it still sends of its past is refused.
    pub(super) fn forget(&mut self, now: Instant) {
        self.restart(self.inbound.closed(), now);
    }

    /// Gives the conduit up; the peer gets a message about it.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.forget(now);
        self.acks.at = Some(now);
    }

    /// The carrier works again: what may be lost is sent again. Returns what the peer must get.
    pub(super) fn resume(&mut self, now: Instant) -> Header {
        self.window.excuse(now);
        self.window.resend(now);
        self.header(Kind::Nack, 0)
    }

    /// A message with this side's epoch.
    pub(super) fn hello(&mut self) -> Header {
        self.header(Kind::Ack, 0)
    }

    /// Something that came from the peer may be lost.
    pub(super) fn missed(&mut self) -> Header {
        self.header(Kind::Nack, 0)
    }

    /// The carrier has not taken the last message: it is as if it had never been.
    pub(super) fn retract(&mut self, now: Instant) {
        self.window.retract();
        self.acks.at = Some(now);
    }

    /// The carrier has not taken the message at a place: it gets it again, and the acknowledgement with it.
    pub(super) fn not_taken(&mut self, place: u64, reason: NotSent, now: Instant) {
        self.window.not_taken(place, reason, now);
        self.acks.at = Some(now);
    }

    /// Takes back a message that came back from the carrier, where it surely went nowhere else.
    pub(super) fn withdraw(&mut self, header: &Header) -> Option<Bytes> {
        if header.epoch != self.epoch {
            return None;
        }
        self.window.withdraw(header.sequence)
    }

    /// Whether the peer was forgotten and has not begun anew.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.inbound, Inbound::Closed { .. })
    }

    /// What the peer must have by now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Header> {
        if self.acks.gap.is_some_and(|at| now >= at + NACK_PAUSE) {
            self.acks.gap = Some(now);
            return Some(self.header(Kind::Nack, 0));
        }
        let is_due = self.acks.at.is_some_and(|at| now >= at);
        is_due.then(|| self.header(Kind::Ack, 0))
    }

    /// When [`Peer::due`], or its window, has something to do.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let gap = self.acks.gap.map(|at| at + NACK_PAUSE);
        [self.acks.at, gap, self.window.due_at()].into_iter().flatten().min()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.due_at().is_none()
    }

    fn break_off(&mut self, inbound: Inbound, received: &mut Received, now: Instant) {
        self.restart(inbound, now);
        received.broke = true;
        // The peer learns of the new epoch, whatever comes of the message.
        self.acks.at = Some(now);
    }

    fn restart(&mut self, inbound: Inbound, now: Instant) {
        self.epoch = self.epochs.next();
        self.inbound = inbound;
        self.window = Window::new(&self.budget, now);
        self.acks = Acks::default();
    }

    fn accepts(&self, header: &Header) -> Accepts {
        let knows_this_epoch = header.peer_epoch == PeerEpoch::Open(self.epoch);
        let speaks_to_the_past = matches!(header.peer_epoch, PeerEpoch::Open(_)) && !knows_this_epoch;
        match self.inbound {
            Inbound::Fresh if speaks_to_the_past => Accepts::Refused,
            Inbound::Closed { epoch } if header.epoch <= epoch => Accepts::Refused,
            Inbound::Fresh | Inbound::Closed { .. } => Accepts::Anew,
            Inbound::Open { epoch, .. } if header.epoch < epoch => Accepts::Ignored,
            Inbound::Open { epoch, .. } if header.epoch == epoch => Accepts::Yes,
            Inbound::Open { .. } if knows_this_epoch => Accepts::Anew,
            Inbound::Open { .. } => Accepts::Broken,
        }
    }

    fn acknowledged(&mut self, header: &Header, now: Instant) {
        match header.peer_epoch {
            PeerEpoch::Open(epoch) if epoch == self.epoch => {
                self.window.acknowledge(header.acknowledged, now);
            }
            PeerEpoch::Unknown => {}
            // It does not know yet that its news of an epoch is old.
            PeerEpoch::Open(_) | PeerEpoch::Closed(_) => {
                self.acks.at = Some(now);
                return;
            }
        }
        if header.kind == Kind::Nack {
            self.window.complained(now);
        }
    }

    fn ordered(&mut self, header: &Header, payload: Bytes, received: &mut Received, now: Instant) {
        let Inbound::Open { received: last, .. } = &mut self.inbound else {
            return;
        };
        if header.sequence <= *last {
            // The acknowledgement was lost.
            self.acks.at = Some(now);
        } else if header.sequence == *last + 1 {
            *last += 1;
            self.acks.gap = None;
            self.acks.count(payload.len(), now);
            received.payload = (header.kind == Kind::Data).then_some(payload);
        } else if self.acks.gap.is_none() {
            self.acks.gap = Some(now);
            received.answer = Some(self.header(Kind::Nack, 0));
        }
    }
}

/// How a message fits to what came before.
enum Accepts {
    Yes,
    /// It is the first of an epoch of the peer.
    Anew,
    /// The same, and the peer does not know of this side's.
    Broken,
    /// It is of the past.
    Ignored,
    /// It is of the past, and the peer does not know that.
    Refused,
}

// === impl Inbound ===

impl Inbound {
    fn open(epoch: u64) -> Self {
        Self::Open { epoch, received: 0 }
    }

    /// The peer has refused this side's epoch in an epoch of its own. What it had sent in that one already was taken before the
    /// break: then it must begin another one, for it believes that this side still relies on it.
    fn after_refusal(self, epoch: u64) -> Self {
        match self {
            Self::Fresh => Self::open(epoch),
            Self::Open { epoch: known, .. } | Self::Closed { epoch: known } if known < epoch => Self::open(epoch),
            Self::Open { received: 0, .. } => self,
            Self::Open { .. } | Self::Closed { .. } => self.closed(),
        }
    }

    fn closed(self) -> Self {
        match self {
            Self::Fresh => Self::Fresh,
            Self::Open { epoch, .. } | Self::Closed { epoch } => Self::Closed { epoch },
        }
    }
}

// === impl Acks ===

impl Acks {
    /// Notes a message that is to be acknowledged.
    fn count(&mut self, bytes: usize, now: Instant) {
        self.messages += 1;
        self.bytes += bytes;
        if self.messages >= ACK_MESSAGES || self.bytes >= ACK_BYTES {
            self.at = Some(now);
        } else if self.at.is_none() {
            self.at = Some(now + ACK_PAUSE);
        }
    }

    fn sent(&mut self) {
        (self.messages, self.bytes, self.at) = (0, 0, None);
    }
}
