//! The times that the peer of one WebSocket has, in ticks of the clock.
//!
//! Invariants
//! - The time to finish closing begins when the end is decided, whoever decides it and whether or not a close frame can
//!   be written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// When each thing on one socket began; 0 means not at all.
#[derive(Debug)]
pub(crate) struct SocketTimes {
    clock: Arc<Clock>,
    opened: u32,
    heard: AtomicU32,
    /// Closing.
    closing: AtomicU32,
    /// The peer takes none of what is written.
    stalled: AtomicU32,
    /// The message that is being read.
    message: AtomicU32,
}

// === impl SocketTimes ===

impl SocketTimes {
    /// For a socket that is opened now.
    pub(crate) fn new(clock: &Arc<Clock>) -> Self {
        Self {
            opened: clock.now(),
            heard: AtomicU32::new(clock.now()),
            closing: AtomicU32::new(0),
            stalled: AtomicU32::new(0),
            message: AtomicU32::new(0),
            clock: clock.clone(),
        }
    }

    /// When it was opened, from the start of the clock.
    pub(crate) fn opened_at(&self) -> Duration {
        self.clock.time_of(self.opened)
    }

    /// Whether its peer has had the time to send its first message.
    pub(crate) fn is_settled(&self) -> bool {
        self.clock.is_past(self.opened, self.clock.first_word)
    }

    /// Notes that the peer has sent something.
    pub(crate) fn hear(&self) {
        self.heard.store(self.clock.now(), Ordering::Relaxed);
    }

    /// Starts the time to finish closing; false if it has started already.
    pub(crate) fn begin_closing(&self) -> bool {
        let now = self.clock.now().max(1);
        let begun = self
            .closing
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        begun.is_ok()
    }

    /// Notes whether a message has begun and not ended.
    pub(crate) fn reading(&self, within: bool) {
        self.note(&self.message, within, false);
    }

    /// Notes whether the peer currently accepts nothing, and whether it accepted something.
    pub(crate) fn writing(&self, waits: bool, progressed: bool) {
        self.note(&self.stalled, waits, progressed || !waits);
    }

    /// Whether a message has begun and not ended, in either direction.
    pub(crate) fn is_midway(&self) -> bool {
        let goes_on = |since: &AtomicU32| since.load(Ordering::Relaxed) != 0;
        goes_on(&self.message) || goes_on(&self.stalled)
    }

    /// Whether the socket must be cut: its peer is silent, or takes too long to close or to read.
    pub(crate) fn is_over(&self) -> bool {
        let is_silent = self
            .clock
            .is_past(self.heard.load(Ordering::Relaxed), self.clock.dead_after);
        is_silent || self.is_past(&self.closing, self.clock.closing) || self.is_past(&self.stalled, self.clock.write)
    }

    /// Whether a message takes longer than one may.
    pub(crate) fn is_message_late(&self) -> bool {
        self.is_past(&self.message, self.clock.message)
    }

    /// Sets since when something has been going on; `anew` if it began again.
    fn note(&self, since: &AtomicU32, goes_on: bool, anew: bool) {
        let known = since.load(Ordering::Relaxed);
        if goes_on && (known == 0 || anew) {
            since.store(self.clock.now().max(1), Ordering::Relaxed);
        } else if !goes_on && known != 0 {
            since.store(0, Ordering::Relaxed);
        }
    }

    /// Whether something has gone on for longer than its time.
    fn is_past(&self, since: &AtomicU32, limit: u32) -> bool {
        let since = since.load(Ordering::Relaxed);
        since != 0 && self.clock.is_past(since, limit)
    }
}
