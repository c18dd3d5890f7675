//! Every open WebSocket of a hub, and the one beat that pings them all.
//!
//! Invariants
//! - There is one timer for all connections. A tick pings the tenth of the sockets whose turn it is, and ends those
//!   that were not heard for `dead-after`, take nothing for `write-timeout`, or did not finish closing.
//! - The time to finish closing begins when the end is decided, whoever decides it and whether or not a close frame
//!   can be written.
//! - A socket's entry leaves with its [`Registered`] guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use alkhub_calls::Outbox;
use futures::task::AtomicWaker;
use jiff::Timestamp;
use parking_lot::Mutex;
use slab::Slab;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::frame::code;
use crate::auth::Key;

/// Ticks in a ping interval.
const TICKS: u32 = 10;

/// Time for a peer to answer a close.
const CLOSING: Duration = Duration::from_secs(5);

const PING: u8 = 1;
const KILL: u8 = 2;
const DRAIN: u8 = 4;
const LOOK: u8 = 8;

/// All open WebSockets.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: Mutex<Slab<Arc<Socket>>>,
    now: AtomicU32,
}

/// One open WebSocket, as others see it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) key: Arc<Key>,
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

/// A socket's place among the open ones.
#[derive(Debug)]
pub(crate) struct Registered {
    sockets: Arc<Sockets>,
    pub(crate) socket: Arc<Socket>,
    place: usize,
}

/// How long what may take on a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Between two pings.
    pub(crate) ping_interval: Duration,
    /// Without a sign of the peer.
    pub(crate) dead_after: Duration,
    /// Without a byte that the peer takes of what is written.
    pub(crate) write: Duration,
    /// From the first byte of a message to its last.
    pub(crate) message: Duration,
}

/// The same in ticks.
#[derive(Clone, Copy, Debug)]
struct Beat {
    tick: Duration,
    dead_after: u32,
    closing: u32,
    write: u32,
    message: u32,
}

// === impl Sockets ===

impl Sockets {
    /// Enters a socket.
    pub(crate) fn register(self: &Arc<Self>, key: Arc<Key>, outbox: Outbox) -> Registered {
        let socket = Arc::new(Socket {
            key,
            outbox,
            heard: AtomicU32::new(self.now()),
            closing: AtomicU32::new(0),
            stalled: AtomicU32::new(0),
            message: AtomicU32::new(0),
            flags: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        });
        let place = self.open.lock().insert(socket.clone());
        Registered {
            sockets: self.clone(),
            socket,
            place,
        }
    }

    /// Open sockets.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Closes the sockets that `wanted` picks, after what is queued for them.
    pub(crate) fn close(&self, code: u16, reason: &str, wanted: impl Fn(&Socket) -> bool) {
        for socket in self.all().iter().filter(|socket| wanted(socket)) {
            socket.outbox.close(code, reason);
            // A task that waits for its socket to take more would not hear of it.
            socket.waker.wake();
        }
    }

    /// Has every socket look what its key allows now.
    pub(crate) fn look_again(&self) {
        for socket in self.all() {
            socket.flag(LOOK);
        }
    }

    /// Lets go of every socket as soon as no call of its own is under way.
    pub(crate) fn drain(&self) {
        for socket in self.all() {
            socket.flag(DRAIN);
        }
    }

    /// Ends every socket without another word.
    pub(crate) fn kill(&self) {
        for socket in self.all() {
            socket.flag(KILL);
        }
    }

    /// The keys of the open sockets, each once.
    pub(crate) fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<Arc<Key>> = self.all().iter().map(|socket| socket.key.clone()).collect();
        keys.sort_by_key(Arc::as_ptr);
        keys.dedup_by(|a, b| Arc::ptr_eq(a, b));
        keys
    }

    /// Pings and ends sockets until `stop`.
    pub(crate) async fn beat(self: Arc<Self>, times: Times, stop: CancellationToken) {
        let beat = Beat::new(times);
        let mut interval = tokio::time::interval(beat.tick);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => self.tick(beat),
            }
        }
    }

    fn tick(&self, beat: Beat) {
        let now = self.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let time = Timestamp::now();
        for (place, socket) in self.open.lock().iter() {
            socket.tick(beat, now, time);
            if place % (TICKS as usize) == (now % TICKS) as usize {
                socket.flag(PING);
            }
        }
    }

    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    fn all(&self) -> Vec<Arc<Socket>> {
        self.open.lock().iter().map(|(_, socket)| socket.clone()).collect()
    }
}

// === impl Socket ===

impl Socket {
    /// Registers the connection's task to be woken for a ping or an end.
    pub(crate) fn wake_by(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Whether a ping is due; asking answers it.
    pub(crate) fn take_ping(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & PING != 0 && self.flags.fetch_and(!PING, Ordering::AcqRel) & PING != 0
    }

    /// Whether the key may have changed; asking answers it.
    pub(crate) fn take_look(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & LOOK != 0 && self.flags.fetch_and(!LOOK, Ordering::AcqRel) & LOOK != 0
    }

    /// Whether the connection must end without another word.
    pub(crate) fn killed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & KILL != 0
    }

    /// Whether the hub drains.
    pub(crate) fn draining(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & DRAIN != 0
    }

    fn flag(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.waker.wake();
    }

    fn tick(&self, beat: Beat, now: u32, time: Timestamp) {
        let past = |since: &AtomicU32, limit: u32| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && now.wrapping_sub(since) > limit
        };
        let silent = now.wrapping_sub(self.heard.load(Ordering::Relaxed));
        if silent > beat.dead_after || past(&self.closing, beat.closing) || past(&self.stalled, beat.write) {
            return self.flag(KILL);
        }
        if self.key.expired(time) {
            self.outbox.close(code::REVOKED, "the key has expired");
        } else if past(&self.message, beat.message) {
            self.outbox
                .close(code::POLICY, "a message took longer than `server.message-timeout`");
        }
        if self.outbox.is_closed() && self.begin_closing(now) {
            self.waker.wake();
        }
    }

    /// Lets the time to finish closing begin; false when it has.
    fn begin_closing(&self, now: u32) -> bool {
        let begun = self
            .closing
            .compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        begun.is_ok()
    }
}

// === impl Registered ===

impl Registered {
    /// Notes that the peer was heard.
    pub(crate) fn heard(&self) {
        self.socket.heard.store(self.sockets.now(), Ordering::Relaxed);
    }

    /// Notes that a close frame is on its way: from now on the end is near.
    pub(crate) fn closing(&self) {
        self.socket.begin_closing(self.sockets.now());
    }

    /// Notes whether a message has begun and not ended.
    pub(crate) fn reading(&self, within: bool) {
        self.note(&self.socket.message, within, false);
    }

    /// Notes whether the peer takes no more now, and whether it took something.
    pub(crate) fn writing(&self, waits: bool, took: bool) {
        self.note(&self.socket.stalled, waits, took || !waits);
    }

    /// Sets since when something goes on, `anew` when it began again.
    fn note(&self, since: &AtomicU32, goes_on: bool, anew: bool) {
        let known = since.load(Ordering::Relaxed);
        if goes_on && (known == 0 || anew) {
            since.store(self.sockets.now().max(1), Ordering::Relaxed);
        } else if !goes_on && known != 0 {
            since.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sockets.open.lock().try_remove(self.place);
    }
}

// === impl Beat ===

impl Beat {
    fn new(times: Times) -> Self {
        let tick = (times.ping_interval / TICKS).max(Duration::from_millis(5));
        let ticks = |time: Duration| u32::try_from(time.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u32::MAX / 2);
        Self {
            tick,
            dead_after: ticks(times.dead_after),
            closing: ticks(CLOSING),
            write: ticks(times.write),
            message: ticks(times.message),
        }
    }
}
