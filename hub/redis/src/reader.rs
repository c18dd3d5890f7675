//! Reads what Redis sends: the connection only decodes and queues, and a task behind it distributes.
//!
//! Invariants
//! - The connection never waits. If the queue behind it is full, the incarnation ends, and every subscriber gets a gap.
//! - Each event is distributed once, though Redis sends it twice to a hub that subscribed to both a topic and all ids
//!   of its type: the copy for the topic counts, and the copy for the pattern is skipped while the topic is subscribed.
//! - A topic is reported as resumed when the stream reaches its confirmation: after everything of the previous
//!   incarnation, before everything of this one.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_protocol::{Topic, TopicFilter};
use bytes::Bytes;
use prometheus::IntCounter;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc;

use crate::bundle;
use crate::channel::{Channel, Names};
use crate::incarnation::Teardown;
use crate::probe::Probe;
use crate::receive::{HubReceiver, TopicTable};

/// How many bytes may be received and not yet distributed.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// How many messages are distributed between two checks of the clock.
const BATCH: usize = 256;

/// The end of the queue that the connection fills.
pub(crate) struct Push {
    queue: mpsc::Sender<PushMessage>,
    held: Arc<AtomicUsize>,
    teardown: Teardown,
    overflowed: IntCounter,
}

/// What stays the same in every incarnation.
pub(crate) struct Receivers {
    pub(crate) names: Arc<Names>,
    pub(crate) table: Arc<dyn TopicTable>,
    pub(crate) hubs: Arc<dyn HubReceiver>,
    pub(crate) probe: Probe,
}

#[derive(Debug)]
pub(crate) struct PushMessage {
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

/// The reader of one incarnation.
struct Reader {
    receivers: Arc<Receivers>,
    /// Channels of topics that this stream carries from here on.
    topics: HashSet<Vec<u8>>,
}

// === impl Push ===

impl Push {
    pub(crate) fn new(queue: mpsc::Sender<PushMessage>, teardown: Teardown, overflowed: IntCounter) -> Self {
        Self {
            queue,
            held: Arc::default(),
            teardown,
            overflowed,
        }
    }

    /// Bytes in the queue; the reader subtracts what it has read.
    pub(crate) fn held(&self) -> Arc<AtomicUsize> {
        self.held.clone()
    }

    /// Called by the connection for each message. Never waits. After the first message that did not fit, none is taken,
    /// since it would come before the gap for the loss.
    pub(crate) fn take(&self, info: PushInfo) -> Result<(), redis::aio::SendError> {
        if self.teardown.has_begun() {
            return Err(redis::aio::SendError);
        }
        let disconnected = info.kind == PushKind::Disconnection;
        let Some(message) = PushMessage::read(info) else {
            if disconnected {
                self.teardown.begin("the connection was lost");
            }
            return Ok(());
        };
        let size = message.payload.len();
        let fits = self.held.fetch_add(size, Ordering::Relaxed) <= QUEUE_BYTES;
        if fits && self.queue.try_send(message).is_ok() {
            return Ok(());
        }
        self.overflowed.inc();
        self.teardown.begin("more came than this hub could spread");
        Err(redis::aio::SendError)
    }
}

// === impl PushMessage ===

impl PushMessage {
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

// === impl Receivers ===

impl Receivers {
    /// Distributes what an incarnation receives, to the last message before its end.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut messages: mpsc::Receiver<PushMessage>,
        held: Arc<AtomicUsize>,
        teardown: Teardown,
    ) {
        let mut reader = Reader {
            receivers: self,
            topics: HashSet::new(),
        };
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let count = tokio::select! {
                count = messages.recv_many(&mut batch, BATCH) => count,
                () = teardown.begun(), if !messages.is_closed() => {
                    messages.close();
                    continue;
                }
            };
            if count == 0 {
                break;
            }
            reader.receivers.probe.received();
            for message in batch.drain(..) {
                held.fetch_sub(message.payload.len(), Ordering::Relaxed);
                reader.take(message);
            }
        }
    }
}

// === impl Reader ===

impl Reader {
    /// Never waits: slow work must not hold up what comes behind it.
    fn take(&mut self, message: PushMessage) {
        let Receivers {
            names,
            table,
            hubs,
            probe,
        } = &*self.receivers;
        match (message.kind, names.read(&message.channel)) {
            (Kind::Published, Channel::Event(topic)) => table.event(topic, &message.payload),
            (Kind::Matched, Channel::Event(topic)) => {
                if !self.topics.contains(&message.channel) {
                    table.event(topic, &message.payload);
                }
            }
            (Kind::Subscribed, Channel::Event(topic)) => {
                if let Ok(topic) = topic.parse::<Topic>() {
                    table.resumed(&TopicFilter::One(topic));
                }
                self.topics.insert(message.channel);
            }
            (Kind::Unsubscribed, Channel::Event(_)) => {
                self.topics.remove(&message.channel);
            }
            (Kind::PatternSubscribed, _) => {
                if let Some(event_type) = names.read_pattern(&message.channel) {
                    table.resumed(&TopicFilter::AllOf(event_type.into()));
                }
            }
            (Kind::Published, Channel::Inbox) => {
                for message in bundle::decode(message.payload) {
                    match message {
                        Ok(message) => hubs.relayed(message),
                        Err(error) => tracing::warn!(%error, "a message of another hub was not understood"),
                    }
                }
            }
            (Kind::Published, Channel::Directory) => hubs.directory_changed(message.payload),
            (Kind::Published, Channel::Keys) => hubs.keys_changed(message.payload),
            (Kind::Published, Channel::Probe) => probe.returned(&message.payload),
            (_, _) => {}
        }
    }
}
