//! One WebSocket after its upgrade, for as long as it serves a peer's session: a single task that reads, lets the
//! session's [`Conversation`](crate::conversation::Conversation) answer, and writes.
//!
//! Reading uses a scratch buffer on the stack, so that an idle connection holds none. Writing drains control frames,
//! then calls, then events; everything that is queued goes into one write.
//!
//! Invariants
//! - The hub never speaks first: what is queued waits for the peer's first message, whose kind (text or binary) is the
//!   kind of every answer. Control frames are exempt.
//! - Reading stops while too many of the peer's requests wait for something remote, and never because the peer does not
//!   read: what waits for it is bounded by its outbox, which closes the connection when it overflows.
//! - Once the end is decided, for whatever reason (the key, a slow reader, a drain, a protocol error), nothing more is
//!   read or acted on: calls are aborted, the spoke is gone. Only the peer's own close is still looked for, once ours
//!   is on its way.
//! - After a close frame is queued, nothing else is written.
//! - A peer that is to go is let go between two messages: the message that it has begun is read to its end, and the
//!   calls and events that wait for it are written first.
//! - When another connection asks for the session, this one reads nothing more and hands it over at once.

mod greeting;
mod uncounted;
mod write;

use std::future::Future as _;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use alkhub_budget::Kept;
use alkhub_calls::Outbox;
use alkhub_edge::open::{Closeable as _, DRAINING};
use alkhub_protocol::{CloseCode, FRAME_LIMIT_BYTES};
use alkhub_wire::{Batch, Decoder, MessageKind, Received, Role};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::code;
use crate::entry::SocketGuard;
use crate::resumable::Taker;
use crate::session::PeerSession;
use uncounted::{Greeting, Uncounted};

/// The subprotocol with JSON envelopes.
pub(crate) const JSON: &str = "alk.v1.json";

/// Bytes read at once.
const SCRATCH: usize = 16 * 1024;

/// How much is queued for one write, roughly, in bytes.
const BATCH: usize = 64 * 1024;

/// The reason given to a peer that is let go.
const LET_GO: &str = "other hubs have fewer connections: connect again";

/// Time for a peer to take the close of a connection that it has left.
const FAREWELL: Duration = Duration::from_secs(2);

/// One connection.
pub(crate) struct Connection<S> {
    io: S,
    /// The bytes that came with the upgrade and are not decoded yet.
    rest: Bytes,
    decoder: Decoder,
    batch: Batch,
    registered: SocketGuard,
    session: Box<PeerSession>,
    /// The session's outbox.
    outbox: Outbox,
    greeting: Greeting,
    uncounted: Uncounted,
    /// Another connection, which is to serve the session from now on.
    taker: Option<Taker>,
    kind: Option<MessageKind>,
    pong: Option<Bytes>,
    /// The close that follows once the ends that are held back were sent.
    ending: Option<(CloseCode, String)>,
    peer_closed: bool,
    phase: Phase,
    /// The charge for what was read and is not finished, or waits for a registration.
    charge: alkhub_budget::Held,
    /// Whether the writer has taken something from the outbox since everything was last written.
    taken: bool,
    /// Until it ends, the socket is not read: the key asks for too much.
    pause: Option<Pin<Box<Sleep>>>,
}

/// A connection that has ended.
pub(crate) struct EndedConnection<S> {
    /// The session that it served.
    pub(crate) session: Box<PeerSession>,
    /// Its place among what is open: a draining hub waits until that is dropped.
    pub(crate) registered: SocketGuard,
    /// Where the session goes, if another connection asked for it, and what can tell the peer so.
    pub(crate) taken: Option<(Taker, Farewell<S>)>,
}

/// The socket of a connection whose session was taken over.
pub(crate) struct Farewell<S> {
    io: S,
    batch: Batch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Both sides speak. If the outbox is closed, what was queued before is still written, and nothing is read.
    Open,
    /// Our close frame is queued; the peer's is awaited.
    Closing,
    /// The peer broke the protocol: our close frame is written, then our side of the socket is closed, and whatever the
    /// peer still sends is read and discarded, so that it sees why.
    Refused,
    /// Our side is closed; the peer's end is awaited.
    Deaf,
    /// Both close frames have been exchanged: write what is left and end.
    Closed,
}

// === impl Connection ===

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection whose upgrade has been answered and which serves the session from now on; `rest` is what the peer
    /// sent meanwhile.
    pub(crate) fn new(io: S, rest: Bytes, registered: SocketGuard, mut session: Box<PeerSession>) -> Self {
        session.attach();
        let charge = session.conversation.budget.nothing(Kept::Messages);
        let outbox = session.conversation.outbox().clone();
        Self {
            io,
            rest,
            decoder: Decoder::new(Role::Server, FRAME_LIMIT_BYTES),
            batch: Batch::new(Role::Server),
            registered,
            session,
            outbox,
            greeting: Greeting::Awaited(0),
            uncounted: Uncounted::default(),
            taker: None,
            kind: None,
            pong: None,
            ending: None,
            peer_closed: false,
            phase: Phase::Open,
            charge,
            taken: false,
            pause: None,
        }
    }

    /// Serves the session until the connection is over.
    pub(crate) async fn serve(&mut self) {
        let over = std::future::poll_fn(|cx| self.poll(cx)).await;
        if let Err(error) = over {
            tracing::debug!(%error, "a WebSocket ended without a close");
        }
    }

    /// Returns the session of a connection that is over.
    pub(crate) fn into_ended(self) -> EndedConnection<S> {
        let Self {
            session,
            registered,
            taker,
            io,
            batch,
            ..
        } = self;
        EndedConnection {
            session,
            registered,
            taken: taker.map(|taker| (taker, Farewell { io, batch })),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.registered.socket.wake_by(cx.waker());
        if self.registered.socket.killed() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.registered.socket.take_look() {
            self.session.conversation.look_again();
        }
        if self.registered.socket.take_hubs() {
            self.tell_hubs();
        }
        loop {
            self.poll_claim(cx);
            self.registered.socket.set_mobility(self.mobility());
            self.ask_to_move();
            if self.decode_rest() {
                // It may have asked for another session; its arrival wakes whoever looked for it.
                continue;
            }
            if self.phase == Phase::Open && !self.is_ending() {
                self.taker = self.session.asked(cx);
                if self.taker.is_some() {
                    return Poll::Ready(Ok(()));
                }
            }
            self.session.conversation.poll_pending(cx);
            self.end_work();
            // What waited for a registration that has just ended waits no more, and the peer may say nothing for long.
            self.charge.ease(self.kept());
            let written = self.poll_write(cx)?;
            if self.phase == Phase::Closed && written.is_ready() {
                return Pin::new(&mut self.io).poll_shutdown(cx);
            }
            if self.phase == Phase::Refused && written.is_ready() {
                ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
                self.phase = Phase::Deaf;
            }
            if self.phase == Phase::Open
                && (self.session.conversation.is_busy() || self.is_ending() || self.is_claiming() || self.is_paused(cx))
            {
                // Woken when something remote is done, the socket accepts more, or the pause is over.
                return Poll::Pending;
            }
            match self.poll_read(cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => {}
                // Nothing more can be read or written now.
                Poll::Pending if written.is_ready() && self.leaves() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Called between two messages, when everything is written. While the hub drains, a client with no call under way
    /// is sent elsewhere, or asked to move there; and a peer that is to go is let go once nothing is under way. Returns
    /// whether this has produced something to write.
    fn leaves(&self) -> bool {
        let (socket, conversation) = (&self.registered.socket, &self.session.conversation);
        let is_midway = self.decoder.is_within_message() || !self.session.held.is_empty();
        if self.phase != Phase::Open || self.outbox.is_closed() || is_midway {
            return false;
        }
        if socket.is_leaving() && conversation.let_go(LET_GO) {
            return true;
        }
        if !socket.draining() || socket.is_moving() {
            return false;
        }
        if self.asks_itself() {
            return true;
        }
        let is_quiet = conversation.is_quiet();
        if is_quiet {
            self.outbox.close(CloseCode::GoingAway, DRAINING);
        }
        is_quiet
    }

    /// Asks a peer that came, or came back, during the drain to move; false if it cannot, or no hub would take it.
    fn asks_itself(&self) -> bool {
        let (socket, sockets) = (&self.registered.socket, self.session.conversation.sockets());
        if !socket.draining() || !socket.is_unasked() || !sockets.calls().moves().has_refuge() {
            return false;
        }
        let refuge = sockets.refuge(self.outbox.session());
        socket.ask_to_move(refuge.as_deref())
    }

    /// Whether the socket must not be read for a while.
    fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let paused = self
            .pause
            .as_mut()
            .is_some_and(|pause| pause.as_mut().poll(cx).is_pending());
        if !paused {
            self.pause = None;
        }
        paused
    }

    /// Whether the end is decided.
    fn is_ending(&self) -> bool {
        self.outbox.is_closed()
    }

    /// Once the end is decided, ends what the peer has under way, however long its socket accepts no close frame;
    /// whatever it still sends is not kept.
    fn end_work(&mut self) {
        if let Some(reason) = self.outbox.closing() {
            self.session.conversation.end_work(&reason);
            self.decoder.ignore_content();
        }
    }

    // --- reading ---

    /// Reads once and acts on it; returns the number of bytes read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [const { MaybeUninit::uninit() }; SCRATCH];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.registered.heard();
        self.decode(buffer.filled());
        self.account();
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Bytes that were read and are not finished, or wait for a registration.
    fn kept(&self) -> usize {
        self.decoder.kept() + self.session.conversation.waiting_bytes()
    }

    /// Charges what was read: for what it makes the hub keep, and for what it asks.
    fn account(&mut self) {
        self.registered.reading(self.decoder.is_within_message());
        if let Err(exhausted) = self.charge.follow(self.kept()) {
            self.outbox.close(CloseCode::Policy, &exhausted.to_string());
        }
        let wait = self.session.conversation.settle_asked();
        if !wait.is_zero() {
            self.pause = Some(Box::pin(sleep(wait)));
        }
    }

    /// Acts on what was read before; false if there is nothing, or it is for a session that is on its way.
    fn decode_rest(&mut self) -> bool {
        if self.rest.is_empty() || self.is_claiming() {
            return false;
        }
        let rest = std::mem::take(&mut self.rest);
        self.decode(&rest);
        self.account();
        true
    }

    fn decode(&mut self, mut input: &[u8]) {
        while matches!(self.phase, Phase::Open | Phase::Closing) {
            if self.is_claiming() {
                // It is for the session that is on its way.
                self.rest = Bytes::copy_from_slice(input);
                return;
            }
            match self.decoder.feed(&mut input) {
                Ok(Some(received)) => self.received(received),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(reason = error.reason, "a WebSocket peer broke the protocol");
                    if self.phase == Phase::Open {
                        let code = code::of(error.violation);
                        self.outbox.close(code, error.reason);
                        self.end_work();
                        self.close(code, error.reason);
                    }
                    self.phase = Phase::Refused;
                }
            }
        }
    }

    fn received(&mut self, received: Received) {
        match received {
            // Whatever is queued for the peer is written first.
            Received::Close { .. } if self.phase == Phase::Open => {
                self.peer_closed = true;
                self.outbox.close(CloseCode::Normal, "");
            }
            Received::Close { .. } => self.phase = Phase::Closed,
            _ if self.phase != Phase::Open || self.is_ending() => {}
            Received::Message { kind, data } => {
                self.registered.reading(false);
                self.kind.get_or_insert(kind);
                let left = self.session.conversation.message(&data);
                self.act_on(left, data.len());
            }
            Received::TooLarge { kind, head, size } => {
                self.kind.get_or_insert(kind);
                let left = self.session.conversation.too_large(&head, size);
                self.act_on(left, size);
            }
            Received::Ping(payload) => self.pong = Some(payload),
            Received::Pong(payload) => {
                self.session.conversation.heartbeat();
                self.session.held.answered(&payload);
            }
        }
    }
}

// === impl Farewell ===

impl<S: AsyncRead + AsyncWrite + Unpin> Farewell<S> {
    /// Tells the peer that its session goes on over another connection, if it still accepts that.
    pub(crate) async fn say(mut self) {
        self.batch
            .close(CloseCode::Moved.number(), "the session goes on over a newer connection");
        let said = std::future::poll_fn(|cx| {
            ready!(self.batch.poll_write(cx, &mut self.io))?;
            Pin::new(&mut self.io).poll_shutdown(cx)
        });
        // A peer that came back has abandoned this socket: usually nobody reads it.
        drop(tokio::time::timeout(FAREWELL, said).await);
    }
}
