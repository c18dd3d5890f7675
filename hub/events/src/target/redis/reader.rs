//! Reads what Redis sends: the connection only decodes and queues, a task behind it spreads.
//!
//! Invariants
//! - The connection never waits. When the queue behind it is full the session ends, and every subscriber gets a gap.
//! - Each event is spread once, though Redis sends it twice to a hub that subscribed a topic and all ids of its type:
//!   the copy for the topic counts, the copy for the pattern is skipped while the topic is subscribed.
//! - A gap of a topic is pushed when the stream comes to the topic's confirmation: after everything of the session
//!   before, before everything of this one.
//! - A message that is no envelope costs its subscribers that message and a gap, and nobody anything else.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_protocol::envelope::{TransportHeader, encode};
use alkhub_protocol::{Envelope, Topic, TopicFilter};
use bytes::Bytes;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc;

use super::probe::Probe;
use super::session::End;
use crate::Publication;
use crate::bus::{Readers, Table, spread};
use crate::channel::{Channel, Names};
use crate::cluster::{Feed, InboxSender, Keys};
use crate::mailbox::{Loss, Reason};
use crate::metrics::{Dropped, Metrics};

/// Bytes received and not yet spread, at most.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Messages spread between two looks at the clock.
const BATCH: usize = 256;

/// Bridges that an event may have passed.
const HOP_LIMIT: u8 = 8;

/// Where messages go that are no events.
#[derive(Clone)]
pub(crate) struct Routes {
    pub(crate) inbox: InboxSender,
    pub(crate) feed: Feed,
    pub(crate) keys: Keys,
}

/// The end of the queue that the connection fills.
pub(super) struct Push {
    queue: mpsc::Sender<Message>,
    held: Arc<AtomicUsize>,
    end: End,
    metrics: Metrics,
}

/// What is the same in every session.
pub(crate) struct Reading {
    names: Arc<Names>,
    table: Arc<Table>,
    metrics: Metrics,
    /// How an event of this hub ends when it comes back.
    own_tail: Bytes,
}

#[derive(Debug)]
pub(super) struct Message {
    kind: Kind,
    channel: Vec<u8>,
    payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Published,
    Matched,
    Subscribed,
    PatternSubscribed,
    Unsubscribed,
}

/// The reader of one session.
struct Reader {
    shared: Arc<Reading>,
    routes: Routes,
    probe: Probe,
    /// Channels of topics that this stream carries from here on.
    topics: HashSet<Vec<u8>>,
}

// === impl Push ===

impl Push {
    pub(super) fn new(queue: mpsc::Sender<Message>, end: End, metrics: Metrics) -> Self {
        Self {
            queue,
            held: Arc::default(),
            end,
            metrics,
        }
    }

    /// Bytes in the queue; the reader takes off what it has read.
    pub(super) fn held(&self) -> Arc<AtomicUsize> {
        self.held.clone()
    }

    /// Called by the connection for each message. Never waits. After the first that did not fit none is taken: it would
    /// come before the gap that tells of the loss.
    pub(super) fn take(&self, info: PushInfo) -> Result<(), redis::aio::SendError> {
        if self.end.is_decided() {
            return Err(redis::aio::SendError);
        }
        let disconnected = info.kind == PushKind::Disconnection;
        let Some(message) = Message::read(info) else {
            if disconnected {
                self.end.now("the connection was lost");
            }
            return Ok(());
        };
        let size = message.payload.len();
        let fits = self.held.fetch_add(size, Ordering::Relaxed) <= QUEUE_BYTES;
        if fits && self.queue.try_send(message).is_ok() {
            return Ok(());
        }
        self.metrics.dropped(Dropped::LinkOverflow, 1);
        self.end.now("more came than this hub could spread");
        Err(redis::aio::SendError)
    }
}

// === impl Message ===

impl Message {
    fn read(info: PushInfo) -> Option<Self> {
        let kind = match info.kind {
            PushKind::Message => Kind::Published,
            PushKind::PMessage => Kind::Matched,
            PushKind::Subscribe => Kind::Subscribed,
            PushKind::PSubscribe => Kind::PatternSubscribed,
            PushKind::Unsubscribe => Kind::Unsubscribed,
            _ => return None,
        };
        let mut parts = info.data.into_iter().map(|value| match value {
            Value::BulkString(bytes) => bytes,
            _ => Vec::new(),
        });
        if kind == Kind::Matched {
            parts.next();
        }
        let channel = parts.next()?;
        Some(Self {
            kind,
            channel,
            payload: parts.next().unwrap_or_default().into(),
        })
    }
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(names: Arc<Names>, table: Arc<Table>, header: &TransportHeader, metrics: Metrics) -> Self {
        let bare = encode("", "", None, None);
        let own_tail = encode("", "", None, Some(header)).slice(bare.len() - 1..);
        Self {
            names,
            table,
            metrics,
            own_tail,
        }
    }

    /// Spreads what a session receives, to the last message before its end.
    pub(super) async fn run(
        self: Arc<Self>,
        mut messages: mpsc::Receiver<Message>,
        held: Arc<AtomicUsize>,
        routes: Routes,
        probe: Probe,
        end: End,
    ) {
        let mut reader = Reader {
            shared: self,
            routes,
            probe,
            topics: HashSet::new(),
        };
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let count = tokio::select! {
                count = messages.recv_many(&mut batch, BATCH) => count,
                () = end.wait(), if !messages.is_closed() => {
                    messages.close();
                    continue;
                }
            };
            if count == 0 {
                break;
            }
            reader.probe.heard();
            for message in batch.drain(..) {
                held.fetch_sub(message.payload.len(), Ordering::Relaxed);
                reader.take(message);
            }
        }
    }

    fn event(&self, topic: &str, message: &Bytes) {
        if message.ends_with(&self.own_tail) {
            return;
        }
        let event_type = topic.split_once(':').map_or(topic, |(event_type, _)| event_type);
        let readers = self.table.readers(topic, event_type);
        if readers.is_empty() {
            return;
        }
        match Envelope::decode(message) {
            Ok(envelope) if hops(&envelope) > HOP_LIMIT => self.metrics.dropped(Dropped::Hops, 1),
            Ok(envelope) => match topic_of(&envelope).filter(|named| named.as_str() == topic) {
                Some(topic) => {
                    self.metrics.received.inc();
                    spread(
                        &readers,
                        &Arc::new(Publication::counted(topic, envelope.payload, self.table.live())),
                        &self.metrics,
                    );
                }
                None => self.malformed(topic, event_type, &readers),
            },
            Err(_) => self.malformed(topic, event_type, &readers),
        }
    }

    fn malformed(&self, topic: &str, event_type: &str, readers: &Readers) {
        self.metrics.dropped(Dropped::Malformed, 1);
        let loss = Loss {
            reason: Reason::Malformed,
            missed: Some(1),
        };
        let gaps = match topic.parse() {
            Ok(topic) => readers.push_gap(&topic, loss),
            // No valid id: only those who asked for all ids can have wanted it.
            Err(_) => readers.push_gap_of(&TopicFilter::AllOf(event_type.into()), loss),
        };
        self.metrics.gaps(Reason::Malformed, gaps);
    }

    /// The stream has come to the confirmation of a filter.
    fn confirmed(&self, filter: &TopicFilter) {
        if let Some(readers) = self.table.resumed(filter) {
            let gaps = readers.push_gap_of(
                filter,
                Loss {
                    reason: Reason::Reconnected,
                    missed: None,
                },
            );
            self.metrics.gaps(Reason::Reconnected, gaps);
        }
    }
}

// === impl Reader ===

impl Reader {
    /// Never waits: what is slow must not hold up what comes behind it.
    fn take(&mut self, message: Message) {
        let shared = self.shared.clone();
        match (message.kind, shared.names.read(&message.channel)) {
            (Kind::Published, Channel::Event(topic)) => shared.event(topic, &message.payload),
            (Kind::Matched, Channel::Event(topic)) => {
                if !self.topics.contains(&message.channel) {
                    shared.event(topic, &message.payload);
                }
            }
            (Kind::Subscribed, Channel::Event(topic)) => {
                if let Ok(topic) = topic.parse::<Topic>() {
                    shared.confirmed(&TopicFilter::One(topic));
                }
                self.topics.insert(message.channel);
            }
            (Kind::Unsubscribed, Channel::Event(_)) => {
                self.topics.remove(&message.channel);
            }
            (Kind::PatternSubscribed, _) => {
                if let Some(event_type) = shared.names.read_pattern(&message.channel) {
                    shared.confirmed(&TopicFilter::AllOf(event_type.into()));
                }
            }
            (Kind::Published, Channel::Inbox) => self.relayed(message.payload),
            (Kind::Published, Channel::Directory) => self.routes.feed.push(message.payload),
            (Kind::Published, Channel::Keys) => self.routes.keys.read(&message.payload),
            (Kind::Published, Channel::Probe) => self.probe.returned(&message.payload),
            (_, _) => {}
        }
    }

    /// A message that its reader has no room for is lost, and the reader is told.
    fn relayed(&self, message: Bytes) {
        if !self.routes.inbox.push(message) {
            self.shared.metrics.dropped(Dropped::Unread, 1);
        }
    }
}

fn hops(envelope: &Envelope) -> u8 {
    envelope.transport.as_ref().map_or(0, |header| header.hop)
}

fn topic_of(envelope: &Envelope) -> Option<Topic> {
    Topic::new(&envelope.kind, &envelope.id).ok()
}
