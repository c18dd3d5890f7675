//! The one clock of all WebSockets: time in ticks, and the number of ticks that each thing may take.
//!
//! Invariants
//! - There is one timer for all connections. Each tick pings the tenth of the sockets whose turn it is, and ends those
//!   that have exceeded one of their time limits.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use alkhub_config::ServerConfig;
use alkhub_edge::Open;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::open::MOVING;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Ticks in a ping interval.
const TICKS: u32 = 10;

/// Time for a peer to send its first message, before it may be let go because it has nothing.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Time for a peer to answer a close.
const CLOSING: Duration = Duration::from_secs(5);

/// How long a peer that is to go to another hub may take to finish what is under way; after that it stays, and may be
/// chosen again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The current tick, and the time limits of sockets in ticks.
#[derive(Debug)]
pub(crate) struct Clock {
    now: AtomicU32,
    tick: Duration,
    /// Without a sign of life from the peer (`server.dead-after`).
    pub(crate) dead_after: u32,
    /// From the opening of a connection until its peer may be let go although it has sent nothing.
    pub(crate) first_word: u32,
    /// From the decision to end until the end.
    pub(crate) closing: u32,
    /// Without the peer taking a byte of what is written (`server.write-timeout`).
    pub(crate) write: u32,
    /// From the first byte of a message to its last (`server.message-timeout`).
    pub(crate) message: u32,
    /// From the decision that the peer is to go to another hub until it stays after all.
    pub(crate) patience: u32,
    /// From asking a peer to move until it may be asked again, or be closed.
    pub(crate) moving: u32,
}

// === impl Clock ===

impl Clock {
    /// A clock with these time limits.
    pub(crate) fn new(server: &ServerConfig) -> Self {
        let tick = (server.ping_interval / TICKS).max(Duration::from_millis(5));
        let ticks = |time: Duration| u32::try_from(time.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u32::MAX / 2);
        Self {
            now: AtomicU32::new(0),
            tick,
            dead_after: ticks(server.dead_after),
            first_word: ticks(FIRST_WORD),
            closing: ticks(CLOSING),
            write: ticks(server.write_timeout),
            message: ticks(server.message_timeout),
            patience: ticks(PATIENCE),
            moving: ticks(MOVING.min(server.drain_timeout)),
        }
    }

    /// Makes every socket check its time limits, tick by tick, until `stop`.
    pub(crate) async fn run(&self, open: &Open, stop: &CancellationToken) {
        let mut interval = tokio::time::interval(self.tick);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            self.now.fetch_add(1, Ordering::Relaxed);
            open.tick(ConnectionKind::Websocket);
        }
    }

    /// The number of the current tick.
    pub(crate) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether more than `limit` ticks have passed since `since`.
    pub(crate) fn is_past(&self, since: u32, limit: u32) -> bool {
        self.now().wrapping_sub(since) > limit
    }

    /// Lets ticks pass at which no socket looks.
    #[cfg(test)]
    pub(crate) fn pass(&self, ticks: u32) {
        self.now.fetch_add(ticks, Ordering::Relaxed);
    }

    /// The time of a tick, from the start of the clock.
    pub(crate) fn time_of(&self, tick: u32) -> Duration {
        self.tick * tick
    }

    /// Whether it is this place's turn to be pinged.
    pub(crate) fn is_turn_of(&self, place: usize) -> bool {
        place % (TICKS as usize) == (self.now() % TICKS) as usize
    }
}
