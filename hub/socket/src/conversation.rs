//! The messages of one WebSocket: handles each as a client's, a spoke's, or a subscriber's.
//!
//! One peer may be all three on one socket. Answers go into the connection's outbox; nothing here waits. Whatever needs
//! something remote (a subscription, a registration, a publication) is polled by the connection's own task, so that it
//! ends with the connection.
//!
//! Invariants
//! - An invalid message is answered: with `call.error` if it asked for a call, otherwise with `__error`, which names
//!   the call or the topic that the message was about. It ends no call but the one that it names, and never one that
//!   the peer itself has running.
//! - Identity comes from the key of the upgrade; what a payload says about it is not read.

mod broken;
mod calls;
mod moving;
mod registration;
mod topics;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alkhub_budget::Budget;
use alkhub_calls::{Caller, Outbox, Registration};
use alkhub_edge::Key;
use alkhub_events::Item;
use alkhub_protocol::frame::session::Hello;
use alkhub_protocol::frame::{Gap, encode, kind};
use alkhub_protocol::{CallError, CloseCode, Code, Dialect, Frame, RawJson, RequestId, topic};
use bytes::Bytes;

use crate::pending::{Done, PendingFutures};
use crate::sockets::Sockets;
use crate::spoke::{SpokeMessage, SpokeRole};
use crate::subscriptions::TopicSubscriptions;
use crate::tickets::Tickets;
use crate::tunnel::TunnelGuard;

/// How much of a refused topic is repeated, in characters: the length of the longest valid one.
const SHOWN: usize = topic::TYPE_LIMIT_BYTES + 1 + topic::ID_LIMIT_BYTES;

/// Everything that a peer has under way on this hub, whichever connection it uses.
pub(crate) struct Conversation {
    sockets: Sockets,
    key: Arc<Key>,
    outbox: Outbox,
    /// The key's budget on this hub.
    pub(crate) budget: Budget,
    spoke: SpokeRole,
    subscriptions: TopicSubscriptions,
    pending: PendingFutures,
    tickets: Tickets,
    /// The tunnels to hubs that the session has left, while calls of it run there.
    tunnels: Vec<TunnelGuard>,
    /// Whether its registration as a spoke is still on its way from another hub, or the other hubs are being asked
    /// about it.
    arriving: bool,
    /// The rights of the key when it was last looked at.
    allowed: Arc<Caller>,
    /// Calls that were running when the end was decided.
    unanswered: Vec<RequestId>,
    /// Messages since the last settling that asked for something.
    asked: u32,
}

/// The part of a message that is left to the connection, to act on or to count.
pub(crate) enum ForConnection {
    /// Nothing to do; the message counts in the peer's session.
    Counted,
    /// Nothing to do, and the message does not count.
    Uncounted,
    /// `__hello`.
    Hello(Box<Hello>),
    /// `__ping`.
    Ping(Option<RawJson>),
    /// `__ack`.
    Acknowledged(u64),
}

// === impl Conversation ===

impl Conversation {
    /// A conversation with the holder of `key`; answers go to `outbox`.
    pub(crate) fn new(sockets: Sockets, key: Arc<Key>, outbox: Outbox, budget: Budget) -> Self {
        Self {
            sockets,
            allowed: key.caller(),
            key,
            outbox,
            budget,
            spoke: SpokeRole::default(),
            subscriptions: TopicSubscriptions::default(),
            pending: PendingFutures::default(),
            tickets: Tickets::default(),
            tunnels: Vec::new(),
            arriving: false,
            unanswered: Vec::new(),
            asked: 0,
        }
    }

    /// Acts on one message.
    pub(crate) fn message(&mut self, data: &Bytes) -> ForConnection {
        self.sockets.messages().received.inc();
        let (frame, dialect) = match Frame::decode_of_peer(data) {
            Ok(decoded) => decoded,
            Err(error) => return self.unreadable(&error, data),
        };
        if let (Frame::Requested(_), Some(dialect)) = (&frame, dialect) {
            self.outbox.speaks(dialect);
        }
        let asks = !matches!(frame, Frame::Acknowledged(_) | Frame::Pong(_)) && !self.spoke.is_answer(&frame);
        self.asked += u32::from(asks);
        let counted = if frame.counts() {
            ForConnection::Counted
        } else {
            ForConnection::Uncounted
        };
        match frame {
            Frame::Acknowledged(count) => return ForConnection::Acknowledged(count),
            Frame::Hello(hello) => return ForConnection::Hello(hello),
            Frame::Ping(payload) => return ForConnection::Ping(payload),
            Frame::Pong(_) => self.heartbeat(),
            Frame::Requested(requested) if requested.operation.as_str() == kind::REGISTER => self.register(requested),
            Frame::Requested(requested) if requested.operation.as_str() == kind::REGISTER_UPDATE_NAME => {
                self.update_registration(requested);
            }
            Frame::Requested(requested) => self.call(requested, data.len()),
            Frame::Aborted { request_id } => self.abort(request_id, data),
            Frame::Responded { ref request_id, .. }
            | Frame::Completed { ref request_id }
            | Frame::Failed { ref request_id, .. }
                if self.answer_elsewhere(request_id, data) => {}
            Frame::Responded { .. } | Frame::Completed { .. } | Frame::Failed { .. } => {
                let answer = SpokeMessage::Frame(calls::slim(frame, data.len()));
                self.spoke.received(answer, data.len());
            }
            Frame::Subscribe(filter) => self.subscribe(filter),
            Frame::Unsubscribe(filter) => self.unsubscribe(&filter),
            Frame::Event(event) => self.publish(event, data.len()),
            Frame::Subscribed(topic) | Frame::Unsubscribed(topic) | Frame::Gap(Gap { topic, .. }) => {
                self.refuse(&of_a_hub(), Some(&topic));
            }
            Frame::Welcome(_) | Frame::Resumed(_) | Frame::Hubs(_) | Frame::Migrate(_) => {
                self.refuse(&of_a_hub(), None)
            }
            // Answering a refusal could go on for ever.
            Frame::Refused(_) => {}
        }
        counted
    }

    /// Ends what the key no longer allows: subscriptions, and operations of the spoke.
    pub(crate) fn look_again(&mut self) {
        let caller = self.key.caller();
        if Arc::ptr_eq(&caller, &self.allowed) {
            return;
        }
        self.allowed = caller.clone();
        self.tickets.recheck(&caller);
        self.end_forbidden(&caller);
        self.narrow(&caller);
    }

    /// Notes the key with which the present connection was opened; its id is that of the key before.
    pub(crate) fn opened_by(&mut self, key: Arc<Key>) {
        self.key = key;
        self.look_again();
    }

    /// The key of the connection that serves it.
    pub(crate) fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Where its answers go.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The state that the sockets of the hub share.
    pub(crate) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Notes whether its connection is lost and another one awaited.
    pub(crate) fn set_reconnecting(&self, is_reconnecting: bool) {
        self.spoke.set_reconnecting(is_reconnecting);
    }

    /// Notes a pong.
    pub(crate) fn heartbeat(&self) {
        self.spoke.heartbeat();
    }

    /// Whether the peer must wait before more of it is read.
    pub(crate) fn is_busy(&self) -> bool {
        self.pending.is_full() || self.spoke.is_full()
    }

    /// Bytes that wait for a registration.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.spoke.early_bytes()
    }

    /// Takes from the key's rate what was asked for since the last call of this; returns how long nothing more may be
    /// asked.
    pub(crate) fn settle_asked(&mut self) -> Duration {
        match std::mem::take(&mut self.asked) {
            0 => Duration::ZERO,
            asked => self.sockets.edge().keys().take_messages(&self.key, asked),
        }
    }

    /// Whether no call of the peer is under way and no spoke is registered.
    pub(crate) fn is_quiet(&self) -> bool {
        let has_calls = self.has_calls_elsewhere();
        self.spoke.is_absent() && self.pending.is_empty() && !has_calls && self.outbox.is_quiet()
    }

    /// The generation of its registration here, if it has one.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.spoke.registration().map(Registration::generation)
    }

    /// Ends the session unless something is under way for the peer, or with it as a spoke; returns whether the end is
    /// decided.
    pub(crate) fn let_go(&self, reason: &str) -> bool {
        let is_idle = self.pending.is_empty() && !self.spoke.is_registering();
        is_idle && self.outbox.close_if_idle(CloseCode::GoingAway, reason)
    }

    /// The next event, gap or overflow for the peer.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        self.subscriptions.poll_event(cx)
    }

    /// Counts messages that were written.
    pub(crate) fn wrote(&self, messages: u64) {
        if messages > 0 {
            self.sockets.messages().sent.inc_by(messages);
        }
    }

    /// Ends what the peer has under way because the end of the connection is decided: its calls are aborted, its spoke
    /// is gone, and pending requests are given up. A second call finds nothing to end.
    pub(crate) fn end_work(&mut self, reason: &str) {
        self.unanswered.extend(self.tickets.take_running(reason));
        let elsewhere = self.take_calls_elsewhere();
        self.unanswered.extend(elsewhere);
        self.pending = PendingFutures::default();
        self.spoke.leave(reason);
    }

    /// Completes remote work that is done.
    pub(crate) fn poll_pending(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(done) = self.pending.poll(cx) {
            self.done(done);
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Published(Ok(())) => {}
            Done::Published(Err(refusal)) => self.refuse(&refusal.error, Some(&refusal.topic)),
            Done::Subscribed(subscribed) => self.subscribed(subscribed),
            Done::Registered(registered) => self.registered(*registered),
            Done::Visible(answer) => self.answer_registration(&answer),
            Done::Narrowed(narrowed) => self.narrowed(*narrowed),
            Done::TakenOver(taken) => self.taken_over(*taken),
            Done::Settled => self.arriving = false,
        }
    }

    /// Ends everything of the peer: its spoke, its subscriptions, and its calls unless they go on without it.
    pub(crate) async fn end(self) {
        let Self {
            tickets,
            spoke,
            subscriptions,
            pending,
            tunnels,
            ..
        } = self;
        drop((tickets, subscriptions, pending, tunnels));
        spoke.end("the connection is closed").await;
    }

    fn dialect(&self) -> Dialect {
        self.outbox.dialect()
    }

    /// Answers a call with an error.
    fn fail(&self, id: &RequestId, error: &CallError) {
        self.say(encode::call_error(self.dialect(), id.as_str(), error));
    }

    /// Refuses a message that belongs to no call; `topic` is what it was about, and may be as long as the message.
    pub(crate) fn refuse(&self, error: &CallError, topic: Option<&str>) {
        let topic: Option<String> = topic.map(|topic| topic.chars().take(SHOWN).collect());
        self.say(encode::refused(error, topic.as_deref()));
    }

    /// Refuses a message about a call that goes on.
    fn refuse_of_call(&self, error: &CallError, id: &RequestId) {
        self.say(encode::refused_of_call(error, id.as_str()));
    }

    /// Queues an answer; a peer that does not read its answers is disconnected.
    fn say(&self, message: Bytes) {
        if self.outbox.push(message) == Err(alkhub_calls::Full::Queue) {
            self.outbox.close(CloseCode::Policy, "answers are not read fast enough");
        }
    }
}

/// The answer to a message of a kind that only hubs send.
fn of_a_hub() -> CallError {
    CallError::new(Code::BadRequest, "only a hub sends this message")
}
