//! One side of the conduit to one other hub: a state machine without I/O.
//!
//! Each side counts its own *epochs*: one ends when what was under way in it can no longer be relied on. A side that
//! learns that the other has begun a new epoch without knowing of this side's begins a new one too: so both sides see
//! the break, once each.
//!
//! Invariants
//! - Within an epoch of its sender a message is delivered once and in order, or not at all; in the latter case nothing
//!   after it is delivered either.
//! - Nothing from an ended epoch is delivered any more, neither late nor again. Calls of it that no carrier has taken
//!   are given back.
//! - The state of a peer that is gone stays small, and refuses messages that the peer still sends from its past.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alkhub_budget::Budget;
use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::message::{Header, Kind, PeerEpoch};
use super::window::{Class, NoRoom, Window};
use crate::carrier::NotSent;

/// How long an acknowledgement waits for a message to ride on ...
const ACK_PAUSE: Duration = Duration::from_millis(100);

/// ... unless this many messages, or bytes, are unacknowledged.
const ACK_MESSAGES: u64 = 128;
const ACK_BYTES: usize = 1024 * 1024;

/// The minimum time between two complaints about the same gap.
const NACK_PAUSE: Duration = Duration::from_millis(200);

/// Numbers the epochs of this hub, counting up from a number that is higher with each start of the process.
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
    /// Nothing has come yet.
    Fresh,
    /// In this epoch of the peer, everything up to `received` has arrived.
    Open { epoch: u64, received: u64 },
    /// Messages that the peer sends in this epoch, or in an earlier one, are refused.
    Closed { epoch: u64 },
}

/// The messages of the peer that have yet to be acknowledged.
#[derive(Debug, Default)]
struct Acks {
    messages: u64,
    bytes: usize,
    /// When they must be acknowledged at the latest.
    at: Option<Instant>,
    /// When a gap was last complained about, if something is missing.
    gap: Option<Instant>,
}

/// The outcome of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// The conduit broke before this message: what was under way, in both directions, is lost.
    pub(super) broke: bool,
    /// What no carrier has taken of that, which is not lost: calls.
    pub(super) unsent: Vec<Bytes>,
    pub(super) payload: Option<Bytes>,
    /// An answer that has to go back at once.
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

    /// The header of the next message, which also carries the acknowledgements; [`Peer::pushed`] must follow.
    pub(super) fn next(&mut self, class: Class, bytes: usize) -> Result<Header, NoRoom> {
        self.window.make_room(class, bytes)?;
        let place = self.window.next();
        Ok(self.header(Kind::Data, place))
    }

    /// Notes a message that got its header from [`Peer::next`]; returns whether it may be handed to the carrier now.
    pub(super) fn pushed(&mut self, class: Class, payload: Bytes, now: Instant) -> bool {
        self.window.push(class, payload, now)
    }

    /// The header of a message, in its place of the order or without one.
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

    /// Processes a message that the peer sent.
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

    /// Forgets the peer, which is gone: whatever it still sends from its past is refused. Returns the calls that no
    /// carrier has taken.
    pub(super) fn forget(&mut self, now: Instant) -> Vec<Bytes> {
        self.restart(self.inbound.closed(), now)
    }

    /// Gives the conduit up, as [`Peer::forget`] does; the peer gets a message about that.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Bytes> {
        let unsent = self.forget(now);
        self.acks.at = Some(now);
        unsent
    }

    /// The carrier works again: sends again what may be lost. Returns what the peer must get.
    pub(super) fn resume(&mut self, now: Instant) -> Header {
        self.window.excuse(now);
        self.window.resend(now);
        self.header(Kind::Nack, 0)
    }

    /// A message that tells the peer this side's epoch.
    pub(super) fn hello(&mut self) -> Header {
        self.header(Kind::Ack, 0)
    }

    /// Something that the peer sent may be lost.
    pub(super) fn missed(&mut self) -> Header {
        self.header(Kind::Nack, 0)
    }

    /// The carrier did not accept the last message: undoes it.
    pub(super) fn retract(&mut self, now: Instant) {
        self.window.retract();
        self.acks.at = Some(now);
    }

    /// The carrier did not accept the message at this place: the message will be offered again, and the acknowledgement
    /// with it.
    pub(super) fn not_taken(&mut self, place: u64, reason: NotSent, now: Instant) {
        self.window.not_taken(place, reason, now);
        self.acks.at = Some(now);
    }

    /// Withdraws a message that the carrier returned, if it certainly went nowhere else.
    pub(super) fn withdraw(&mut self, header: &Header) -> Option<Bytes> {
        if header.epoch != self.epoch {
            return None;
        }
        self.window.withdraw(header.sequence)
    }

    /// Whether the peer was forgotten and has not started afresh.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.inbound, Inbound::Closed { .. })
    }

    /// What the peer must be sent by now.
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
        received.unsent.extend(self.restart(inbound, now));
        received.broke = true;
        // Makes sure that the peer learns of the new epoch, whatever becomes of the message.
        self.acks.at = Some(now);
    }

    fn restart(&mut self, inbound: Inbound, now: Instant) -> Vec<Bytes> {
        self.epoch = self.epochs.next();
        self.inbound = inbound;
        self.acks = Acks::default();
        std::mem::replace(&mut self.window, Window::new(&self.budget, now)).into_unsent()
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
            // The peer does not know yet that what it says about this side's epoch is out of date.
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
            // The acknowledgement must have been lost.
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

/// How a message relates to what came before.
enum Accepts {
    Yes,
    /// Yes, as the first of a new epoch of the peer.
    Anew,
    /// The same, but the peer does not know of this side's epoch.
    Broken,
    /// No: it is from the past.
    Ignored,
    /// No: it is from the past, and the peer does not know that.
    Refused,
}

// === impl Inbound ===

impl Inbound {
    fn open(epoch: u64) -> Self {
        Self::Open { epoch, received: 0 }
    }

    /// The peer has refused this side's epoch, and did so in an epoch of its own. If messages of that epoch were
    /// received before the break, the peer must begin another one, because it believes that this side still relies on
    /// them.
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
