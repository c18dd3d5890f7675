//! The messages of one WebSocket: routes each, as a client's, a spoke's, or a subscriber's.
//!
//! One peer may be all three on one socket. Answers go into the connection's outbox; nothing here waits. What needs
//! something remote (a subscription, a registration, a publication) is polled by the connection's own task, so that it
//! ends with the connection.
//!
//! Invariants
//! - A message that is wrong is answered: `call.error` where it asked for a call, else `__error`, which names the call
//!   or the topic that the message was about. It ends no call but the one that it names, and never one that the peer
//!   itself has running.
//! - Identity comes from the key of the upgrade; what a payload says of it is not read.

mod registration;
mod topics;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alkhub_budget::Budget;
use alkhub_calls::{Caller, Outbox, Reply};
use alkhub_edge::Key;
use alkhub_edge::error::{left_running, unanswered};
use alkhub_events::Item;
use alkhub_protocol::frame::{self, Gap, Requested, encode};
use alkhub_protocol::{CallError, Code, Dialect, Frame, RequestId, topic};
use bytes::Bytes;

use crate::code;
use crate::pending::{Done, PendingFutures};
use crate::sockets::Sockets;
use crate::spoke::{SpokeMessage, SpokeRole};
use crate::subscriptions::TopicSubscriptions;
use crate::tickets::Tickets;

/// As much of a topic that is refused is repeated, in characters: the longest that is not.
const SHOWN: usize = topic::TYPE_LIMIT_BYTES + 1 + topic::ID_LIMIT_BYTES;

/// Close code of a peer that does not read its answers.
const TOO_SLOW: u16 = 1008;

/// What a peer has under way on this hub, whichever connection it speaks over.
pub(crate) struct Conversation {
    sockets: Sockets,
    key: Arc<Key>,
    outbox: Outbox,
    /// Of the key, on this hub.
    pub(crate) budget: Budget,
    spoke: SpokeRole,
    subscriptions: TopicSubscriptions,
    pending: PendingFutures,
    tickets: Tickets,
    /// What the key allowed when it was last looked at.
    allowed: Arc<Caller>,
    /// Calls that ran when the end was decided.
    unanswered: Vec<RequestId>,
    /// Messages since the last settling that asked for something.
    asked: u32,
}

// === impl Conversation ===

impl Conversation {
    /// A conversation with the holder of `key`, whose answers go to `outbox`.
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
            unanswered: Vec::new(),
            asked: 0,
        }
    }

    /// Acts on one message.
    pub(crate) fn message(&mut self, data: &Bytes) {
        self.sockets.messages().received.inc();
        let (frame, dialect) = match Frame::decode_of_peer(data) {
            Ok(decoded) => decoded,
            Err(error) => return self.broken(&error, data.len()),
        };
        self.asked += u32::from(!self.spoke.is_answer(&frame));
        if let (Frame::Requested(_), Some(dialect)) = (&frame, dialect) {
            self.outbox.speaks(dialect);
        }
        match frame {
            Frame::Requested(requested) if requested.operation.as_str() == "hub.register" => self.register(requested),
            Frame::Requested(requested) => self.call(requested, data.len()),
            Frame::Aborted { request_id } => self.abort(request_id, data.len()),
            answer @ (Frame::Responded { .. } | Frame::Completed { .. } | Frame::Failed { .. }) => {
                self.spoke
                    .received(SpokeMessage::Frame(slim(answer, data.len())), data.len());
            }
            Frame::Subscribe(filter) => self.subscribe(filter),
            Frame::Unsubscribe(filter) => self.unsubscribe(&filter),
            Frame::Event(event) => self.publish(event, data.len()),
            Frame::Subscribed(topic) | Frame::Unsubscribed(topic) | Frame::Gap(Gap { topic, .. }) => {
                let error = CallError::new(Code::BadRequest, "only a hub sends this message");
                self.refuse(&error, Some(&topic));
            }
            // Answering a refusal could go on for ever.
            Frame::Refused(_) => {}
        }
    }

    /// Answers a message over the limit, of which the beginning is left.
    pub(crate) fn too_large(&mut self, head: &[u8], size: usize) {
        self.sockets.messages().received.inc();
        self.broken(&frame::Error::too_large(head, size), head.len());
    }

    /// Answers a message that cannot be read. Where it names a call, nobody is left waiting for that call: the peer's
    /// own ends with `call.error`, and one that it should have answered ends at the caller's.
    fn broken(&mut self, error: &frame::Error, bytes: usize) {
        self.asked += 1;
        let fault = error.to_call_error();
        let Some(named) = &error.call else {
            return self.refuse(&fault, error.topic.as_deref());
        };
        let id = &named.request_id;
        if let (true, Some(dialect)) = (named.asks, named.dialect) {
            self.outbox.speaks(dialect);
        }
        if named.asks && !self.tickets.is_running(id) {
            return self.fail(id, &fault);
        }
        if !named.asks && !self.tickets.is_running(id) {
            self.spoke
                .received(SpokeMessage::Broken(id.clone(), fault.clone()), bytes);
        }
        self.refuse_of_call(&fault, id);
    }

    /// `call.aborted`: the peer stops a call of its own, and gets an answer when that is done, or gives up one that it was sent.
    fn abort(&mut self, id: RequestId, bytes: usize) {
        const REASON: &str = "aborted by the caller";
        if !self.tickets.cancel(&id, REASON) {
            self.spoke
                .received(SpokeMessage::Frame(Frame::Aborted { request_id: id }), bytes);
        }
    }

    /// Ends what the key does not allow any more: subscriptions, and operations of the spoke.
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

    /// Takes what was asked for since this was last called from the key's rate; how long it may not ask more.
    pub(crate) fn settle_asked(&mut self) -> Duration {
        match std::mem::take(&mut self.asked) {
            0 => Duration::ZERO,
            asked => self.sockets.edge().keys().take_messages(&self.key, asked),
        }
    }

    /// Whether neither a call of the peer's is under way nor a spoke registered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.spoke.is_absent() && self.pending.is_empty() && self.outbox.is_quiet()
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

    /// Ends what the peer has under way, for the end of the connection is decided: its calls are aborted, its spoke
    /// has left, what it asked for and did not get yet is given up. The second time there is nothing to end.
    pub(crate) fn end_work(&mut self, reason: &str) {
        self.unanswered.extend(self.tickets.take_running(reason));
        self.pending = PendingFutures::default();
        self.spoke.leave(reason);
    }

    /// The last words to a peer whose calls still ran, by the code of the close.
    pub(crate) fn last_errors(&mut self, code: u16, reason: &str) -> Vec<Bytes> {
        let error = match code {
            code::REVOKED => left_running(Code::Unauthenticated, reason),
            code::SUSPENDED => left_running(Code::AccessDenied, reason),
            _ => unanswered(reason),
        };
        let dialect = self.dialect();
        let running = std::mem::take(&mut self.unanswered);
        running
            .iter()
            .map(|id| encode::call_error(dialect, id.as_str(), &error))
            .collect()
    }

    /// Finishes what has come back from elsewhere.
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
            Done::Narrowed(narrowed) => self.narrowed(*narrowed),
        }
    }

    /// Ends what the peer has: its spoke and its subscriptions, and its calls unless they go on without it.
    pub(crate) async fn end(self) {
        let Self {
            tickets,
            spoke,
            subscriptions,
            pending,
            ..
        } = self;
        drop((tickets, subscriptions, pending));
        spoke.end("the connection is closed").await;
    }

    fn call(&mut self, mut requested: Requested, bytes: usize) {
        requested.input = requested.input.map(|input| input.out_of(bytes));
        let metadata = requested.metadata.take();
        // It may stay for longer than the input, which is what the frame is large for.
        requested.metadata = metadata.map(|metadata| Box::new(metadata.out_of(bytes)));
        let id = requested.request_id.clone();
        if self.tickets.is_running(&id) {
            let error = CallError::new(
                Code::BadRequest,
                format!("request id `{id}` belongs to a call that still runs"),
            );
            return self.refuse_of_call(&error, &id);
        }
        let reply = Reply::Outbox(self.outbox.clone());
        match self
            .sockets
            .calls()
            .dispatch(&self.key.caller(), requested.into_request(now_ms()), reply)
        {
            Ok(ticket) => self.tickets.insert(id, ticket),
            Err(error) => self.fail(&id, &error),
        }
    }

    fn dialect(&self) -> Dialect {
        self.outbox.dialect()
    }

    /// Answers a call with an error.
    fn fail(&self, id: &RequestId, error: &CallError) {
        self.say(encode::call_error(self.dialect(), id.as_str(), error));
    }

    /// Refuses a message that belongs to no call; `topic`, which may be as long as the message, is what it was about.
    fn refuse(&self, error: &CallError, topic: Option<&str>) {
        let topic: Option<String> = topic.map(|topic| topic.chars().take(SHOWN).collect());
        self.say(encode::refused(error, topic.as_deref()));
    }

    /// Refuses a message about a call that goes on.
    fn refuse_of_call(&self, error: &CallError, id: &RequestId) {
        self.say(encode::refused_of_call(error, id.as_str()));
    }

    /// Queues an answer; a peer that does not read its answers is let go.
    fn say(&self, message: Bytes) {
        if self.outbox.push(message) == Err(alkhub_calls::Full::Queue) {
            self.outbox.close(TOO_SLOW, "answers are not read fast enough");
        }
    }
}

/// An answer that does not keep the whole of a message for a small part of it.
fn slim(answer: Frame, bytes: usize) -> Frame {
    match answer {
        Frame::Responded { request_id, output } => Frame::Responded {
            request_id,
            output: output.out_of(bytes),
        },
        other => other,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
