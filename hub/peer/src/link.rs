//! One link: its queue, and the task that reads, writes and supervises it.
//!
//! Invariants
//! - What waits to be written is bounded; what does not fit is refused at once, and nobody waits for a slow hub.
//! - Everything that waits leaves in one write, up to a size.
//! - Reading never waits for writing: two hubs that have much to say to each other do not block each other.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use alkhub_protocol::{CloseCode, FRAME_LIMIT_BYTES};
use alkhub_queue::{Full, Limits, Queue, Weigh};
use alkhub_wire::{Batch, Decoder, MessageKind, Received, Role};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::frames::Frames;
use crate::metrics::Metrics;
use crate::receiver::PeerReceiver;

/// The most that may wait for one hub.
const LIMITS: Limits = Limits {
    items: 32_768,
    bytes: 8 * 1024 * 1024,
};

/// How many bytes are taken from the queue for one write; a larger message goes alone.
const WRITE_BYTES: usize = 256 * 1024;

/// The size of one read, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// The longest message: a frame of a spoke or client, and what hubs put in front of it.
const MESSAGE_LIMIT: usize = 2 * FRAME_LIMIT_BYTES;

/// Pings without a sign of life after which a link is given up.
const MISSED: u32 = 3;

/// The most answers to pings that may wait.
const PONGS: usize = 8;

/// How long to wait before asking a full receiver again.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// How long an ending hub waits until everything is written.
const FAREWELL: Duration = Duration::from_secs(1);

/// A link to one hub.
#[derive(Debug, Default)]
pub(crate) struct PeerLink {
    queue: Mutex<Queue<Waiting>>,
    /// Cancelled when another link has taken its place, or nobody wants it any more.
    pub(crate) close: CancellationToken,
}

/// What a link needs from its surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    /// Receives what comes.
    pub(crate) receiver: &'a dyn PeerReceiver,
    pub(crate) metrics: &'a Metrics,
    /// How often the other end is pinged.
    pub(crate) ping_interval: Duration,
    /// Cancelled when the hub ends.
    pub(crate) stop: &'a CancellationToken,
}

/// What waits to be written.
#[derive(Debug)]
enum Waiting {
    Message(Bytes),
    Ping,
    Pong(Bytes),
}

/// Counts signs of life since the last check.
#[derive(Debug, Default)]
struct Pulse {
    heard: AtomicBool,
    writes: AtomicBool,
    wrote: AtomicBool,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCarried {
    /// As much waits for the other hub as may.
    #[error("too much waits for the other hub")]
    Full,
    /// There is no link to the hub.
    #[error("there is no link to the other hub")]
    NoLink,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkEnd {
    #[error("the other hub closed it")]
    Closed,
    #[error("the connection broke: {0}")]
    Broke(io::Error),
    #[error("the other hub broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("nothing came for {MISSED} pings")]
    Silent,
    #[error("the other hub took nothing for {MISSED} pings")]
    Stalled,
    #[error("another link has taken its place, or the hub is gone")]
    Dropped,
    #[error("this hub ends")]
    Ended,
}

// === impl PeerLink ===

impl PeerLink {
    /// Queues a message. Never waits.
    pub(crate) fn push(&self, message: Bytes) -> Result<(), NotCarried> {
        let pushed = self.queue.lock().push(Waiting::Message(message), LIMITS);
        match pushed {
            Ok(waiter) => {
                waiter.wake();
                Ok(())
            }
            Err(Full::Queue) => Err(NotCarried::Full),
            Err(Full::Ended) => Err(NotCarried::NoLink),
        }
    }

    /// Serves a connection until it ends. When the hub ends, what waits is written first, within a bounded time.
    pub(crate) async fn serve<S>(&self, frames: Frames<S>, around: Surroundings<'_>) -> LinkEnd
    where
        S: AsyncRead + AsyncWrite,
    {
        let Frames { stream, role, rest, .. } = frames;
        let (read, write) = tokio::io::split(stream);
        let pulse = Pulse::default();
        let mut served = pin!(async {
            tokio::select! {
                end = self.read(read, (role, rest), &pulse, &around) => end,
                end = self.write(write, role, &pulse, &around) => end,
                end = self.watch(&pulse, around.ping_interval) => end,
                () = self.close.cancelled() => LinkEnd::Dropped,
            }
        });
        tokio::select! {
            end = &mut served => end,
            () = around.stop.cancelled() => {
                let waiter = self.queue.lock().end();
                waiter.wake();
                timeout(FAREWELL, served).await.unwrap_or(LinkEnd::Ended)
            }
        }
    }

    async fn read<S: AsyncRead>(
        &self,
        mut stream: ReadHalf<S>,
        (role, rest): (Role, Vec<u8>),
        pulse: &Pulse,
        around: &Surroundings<'_>,
    ) -> LinkEnd {
        let mut decoder = Decoder::new(role, MESSAGE_LIMIT);
        let mut buffer = vec![0; READ_BYTES.max(rest.len())];
        buffer[..rest.len()].copy_from_slice(&rest);
        let mut count = rest.len();
        drop(rest);
        loop {
            if let Some(end) = self.take(&mut decoder, &buffer[..count], around) {
                return end;
            }
            while around.receiver.is_full() {
                pulse.heard.store(true, Ordering::Relaxed);
                sleep(FULL_PAUSE).await;
            }
            count = match stream.read(&mut buffer).await {
                Ok(0) => return LinkEnd::Closed,
                Ok(count) => count,
                Err(error) => return LinkEnd::Broke(error),
            };
            pulse.heard.store(true, Ordering::Relaxed);
        }
    }

    /// Handles what a read brought; returns the end of the link if that is among it.
    fn take(&self, decoder: &mut Decoder, mut input: &[u8], around: &Surroundings<'_>) -> Option<LinkEnd> {
        let (size, mut messages) = (input.len(), 0);
        let end = loop {
            match decoder.feed(&mut input) {
                Ok(Some(Received::Message { data, .. })) => {
                    messages += 1;
                    around.receiver.received(data);
                }
                Ok(Some(Received::Ping(payload))) => self.answer(payload),
                Ok(Some(Received::Pong(_))) => {}
                Ok(Some(Received::Close { .. })) => break Some(LinkEnd::Closed),
                Ok(Some(Received::TooLarge { .. })) => break Some(LinkEnd::Protocol("a message is too large")),
                Ok(None) => break None,
                Err(error) => break Some(LinkEnd::Protocol(error.reason)),
            }
        };
        around.metrics.received.add(messages, size);
        end
    }

    /// Answers a ping, unless enough answers wait already.
    fn answer(&self, payload: Bytes) {
        let mut queue = self.queue.lock();
        if queue.has_ended() || queue.len() - queue.counted() >= PONGS {
            return;
        }
        let waiter = queue.add(Waiting::Pong(payload));
        drop(queue);
        waiter.wake();
    }

    async fn write<S: AsyncWrite>(
        &self,
        mut stream: WriteHalf<S>,
        role: Role,
        pulse: &Pulse,
        around: &Surroundings<'_>,
    ) -> LinkEnd {
        let mut batch = Batch::new(role);
        let mut waiting = Vec::new();
        loop {
            let goes_on = poll_fn(|context| self.poll_waiting(context, &mut waiting)).await;
            let mut messages = 0;
            for one in waiting.drain(..) {
                match one {
                    Waiting::Message(message) => {
                        messages += 1;
                        batch.message(MessageKind::Binary, message);
                    }
                    Waiting::Ping => batch.ping(&[]),
                    Waiting::Pong(payload) => batch.pong(&payload),
                }
            }
            if !goes_on {
                batch.close(CloseCode::GoingAway.number(), "the hub ends");
            }
            let size = batch.len();
            pulse.writes.store(true, Ordering::Relaxed);
            let written = poll_fn(|context| {
                let before = batch.len();
                let polled = batch.poll_write(context, &mut stream);
                if batch.len() < before {
                    pulse.wrote.store(true, Ordering::Relaxed);
                }
                polled
            })
            .await;
            pulse.writes.store(false, Ordering::Relaxed);
            if let Err(error) = written {
                return LinkEnd::Broke(error);
            }
            around.metrics.sent.add(messages, size);
            if !goes_on {
                return LinkEnd::Ended;
            }
        }
    }

    /// Takes what waits, up to a size; false at the end of the queue.
    fn poll_waiting(&self, context: &Context<'_>, into: &mut Vec<Waiting>) -> Poll<bool> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && let Some(one) = queue.pop()
        {
            bytes += one.bytes();
            into.push(one);
        }
        if !into.is_empty() {
            return Poll::Ready(true);
        }
        if queue.has_ended() {
            return Poll::Ready(false);
        }
        queue.wait(context);
        Poll::Pending
    }

    /// Sends pings, and checks for signs of life.
    async fn watch(&self, pulse: &Pulse, every: Duration) -> LinkEnd {
        let mut ticks = interval_at(Instant::now() + every, every);
        // After the process was stopped for a while, it sees what arrived meanwhile before it counts three as missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut silent, mut stalled) = (0, 0);
        loop {
            ticks.tick().await;
            let has_heard = pulse.heard.swap(false, Ordering::Relaxed);
            silent = if has_heard { 0 } else { silent + 1 };
            let has_written = pulse.wrote.swap(false, Ordering::Relaxed) || !pulse.writes.load(Ordering::Relaxed);
            stalled = if has_written { 0 } else { stalled + 1 };
            if silent >= MISSED {
                return LinkEnd::Silent;
            }
            if stalled >= MISSED {
                return LinkEnd::Stalled;
            }
            let waiter = self.queue.lock().add(Waiting::Ping);
            waiter.wake();
        }
    }
}

// === impl Waiting ===

impl Weigh for Waiting {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.len(),
            Self::Ping | Self::Pong(_) => 0,
        }
    }

    fn counts(&self) -> bool {
        match self {
            Self::Message(_) => true,
            Self::Ping | Self::Pong(_) => false,
        }
    }
}

// === impl LinkEnd ===

impl LinkEnd {
    /// The reason in one word.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broke(_) => "broken",
            Self::Protocol(_) => "protocol",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::Dropped => "dropped",
            Self::Ended => "ended",
        }
    }
}
