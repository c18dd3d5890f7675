//! A WebSocket among what is open: what others ask of it, and the times that its peer has.
//!
//! Invariants
//! - The time to finish closing begins when the end is decided, whoever decides it and whether or not a close frame
//!   can be written.
//! - A socket's entry leaves with its [`SocketGuard`] guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use alkhub_calls::{Caller, Outbox};
use alkhub_edge::limits::Slot;
use alkhub_edge::metrics::Counted;
use alkhub_edge::open::{Closeable, Closing, DRAINING, Entered};
use alkhub_edge::{Key, KeyFault, Open};
use futures::task::AtomicWaker;

use crate::clock::Clock;
use crate::code;

const PING: u8 = 1;
const KILL: u8 = 2;
const DRAIN: u8 = 4;
const LOOK: u8 = 8;

/// One open WebSocket, as others see it.
#[derive(Debug)]
pub(crate) struct SocketEntry {
    clock: Arc<Clock>,
    pub(crate) outbox: Outbox,
    heard: AtomicU32,
    /// The tick at which closing began; 0 while open.
    closing: AtomicU32,
    /// The tick since which the peer takes nothing of what is written; 0 while it does.
    stalled: AtomicU32,
    /// The tick at which the message that is being read began; 0 between two.
    message: AtomicU32,
    flags: AtomicU8,
    waker: AtomicWaker,
}

/// A socket's place among what is open.
#[derive(Debug)]
pub(crate) struct SocketGuard {
    pub(crate) socket: Arc<SocketEntry>,
    _entered: Entered,
}

// === impl SocketEntry ===

impl SocketEntry {
    fn new(clock: Arc<Clock>, outbox: Outbox) -> Self {
        Self {
            outbox,
            heard: AtomicU32::new(clock.now()),
            closing: AtomicU32::new(0),
            stalled: AtomicU32::new(0),
            message: AtomicU32::new(0),
            flags: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            clock,
        }
    }

    /// Registers the connection's task to be woken for a ping or an end.
    pub(crate) fn wake_by(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Whether a ping is due; asking answers it.
    pub(crate) fn take_ping(&self) -> bool {
        self.take(PING)
    }

    /// Whether the key may have changed; asking answers it.
    pub(crate) fn take_look(&self) -> bool {
        self.take(LOOK)
    }

    /// Whether the connection must end without another word.
    pub(crate) fn killed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & KILL != 0
    }

    /// Whether the hub drains.
    pub(crate) fn draining(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & DRAIN != 0
    }

    fn take(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0 && self.flags.fetch_and(!flag, Ordering::AcqRel) & flag != 0
    }

    fn flag(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Lets the time to finish closing begin; false when it has.
    fn begin_closing(&self) -> bool {
        let now = self.clock.now().max(1);
        let begun = self
            .closing
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        begun.is_ok()
    }

    /// Whether something has gone on for longer than its time.
    fn is_past(&self, since: &AtomicU32, limit: u32) -> bool {
        let since = since.load(Ordering::Relaxed);
        since != 0 && self.clock.now().wrapping_sub(since) > limit
    }
}

impl Closeable for SocketEntry {
    fn recheck(&self, _: &Arc<Caller>) {
        self.flag(LOOK);
    }

    fn drain(&self) {
        self.flag(DRAIN);
    }

    fn close(&self, why: Closing) {
        let (code, reason) = match why {
            Closing::Key(KeyFault::Revoked) => (code::REVOKED, "the key was revoked"),
            Closing::Key(KeyFault::Expired) => (code::REVOKED, "the key has expired"),
            Closing::Key(KeyFault::Suspended) => (code::SUSPENDED, "the spoke is suspended"),
            Closing::Drain => (code::GOING_AWAY, DRAINING),
        };
        self.outbox.close(code, reason);
        // A task that waits for its socket to take more would not hear of it.
        self.waker.wake();
    }

    fn kill(&self) {
        self.flag(KILL);
    }

    fn tick(&self, place: usize) {
        let clock = &self.clock;
        let silent = clock.now().wrapping_sub(self.heard.load(Ordering::Relaxed));
        let stuck = self.is_past(&self.closing, clock.closing) || self.is_past(&self.stalled, clock.write);
        if silent > clock.dead_after || stuck {
            return self.flag(KILL);
        }
        if self.is_past(&self.message, clock.message) {
            self.outbox
                .close(code::POLICY, "a message took longer than `server.message-timeout`");
        }
        if self.outbox.is_closed() && self.begin_closing() {
            self.waker.wake();
        }
        if clock.is_turn_of(place) {
            self.flag(PING);
        }
    }
}

// === impl SocketGuard ===

impl SocketGuard {
    /// Enters a socket that `key` has opened.
    pub(crate) fn new(
        open: &Open,
        clock: &Arc<Clock>,
        key: Arc<Key>,
        outbox: Outbox,
        counted: (Slot, Counted),
    ) -> Self {
        let socket = Arc::new(SocketEntry::new(clock.clone(), outbox));
        Self {
            _entered: open.enter(key, socket.clone(), counted),
            socket,
        }
    }

    /// Notes that the peer was heard.
    pub(crate) fn heard(&self) {
        self.socket.heard.store(self.socket.clock.now(), Ordering::Relaxed);
    }

    /// Notes that a close frame is on its way: from now on the end is near.
    pub(crate) fn closing(&self) {
        self.socket.begin_closing();
    }

    /// Notes whether a message has begun and not ended.
    pub(crate) fn reading(&self, within: bool) {
        self.note(&self.socket.message, within, false);
    }

    /// Notes whether the peer takes no more now, and whether it took something.
    pub(crate) fn writing(&self, waits: bool, progressed: bool) {
        self.note(&self.socket.stalled, waits, progressed || !waits);
    }

    /// Sets since when something goes on, `anew` when it began again.
    fn note(&self, since: &AtomicU32, goes_on: bool, anew: bool) {
        let known = since.load(Ordering::Relaxed);
        if goes_on && (known == 0 || anew) {
            since.store(self.socket.clock.now().max(1), Ordering::Relaxed);
        } else if !goes_on && known != 0 {
            since.store(0, Ordering::Relaxed);
        }
    }
}
