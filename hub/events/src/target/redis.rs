//! Events through Redis: how an event is written to its channel, and what happens to one that comes from there.
//!
//! While the link is down, publishing and subscribing fail at once; both can be tried again.
//!
//! Invariants
//! - An event that this hub published is dropped when it comes back: the hub's subscribers had it at once.
//! - A message that is not an envelope costs its subscribers that message and a gap, and has no other effect.

use std::sync::Arc;

use alkhub_protocol::envelope::{TransportHeader, encode};
use alkhub_protocol::{Envelope, HubId, RawJson, Topic, TopicFilter};
use alkhub_redis::{Expiry, Idle, Redis, TopicTable};
use bytes::Bytes;

use crate::error::{PublishError, SubscribeError};
use crate::mailbox::{Loss, Reason};
use crate::metrics::Metrics;
use crate::publication::Publication;
use crate::table::{Readers, Table};

/// How many bridges an event may have passed.
const HOP_LIMIT: u8 = 8;

/// Carries events to the other processes of the prefix.
#[derive(Clone, Debug)]
pub(crate) struct Outlet {
    redis: Redis,
    header: Arc<TransportHeader>,
}

/// Receives what other processes published.
#[derive(Debug)]
pub(crate) struct Intake {
    table: Arc<Table>,
    metrics: Metrics,
    /// The last bytes of an event of this hub, by which it is recognized when it comes back.
    own_tail: Bytes,
}

/// What a hub adds to its events besides the envelope.
fn header(hub: &HubId) -> TransportHeader {
    TransportHeader {
        node: hub.as_str().to_owned(),
        hop: 0,
    }
}

// === impl Outlet ===

impl Outlet {
    pub(crate) fn new(redis: Redis, hub: &HubId) -> Self {
        Self {
            redis,
            header: Arc::new(header(hub)),
        }
    }

    /// Whether the link is up.
    pub(crate) fn ready(&self) -> Result<(), SubscribeError> {
        self.redis.incarnation()?;
        Ok(())
    }

    /// Carries an event to the other processes of the prefix and waits until Redis has it.
    pub(crate) async fn carry(&self, topic: &Topic, payload: Option<&RawJson>) -> Result<(), PublishError> {
        let message = encode(topic.event_type(), topic.id(), payload, Some(&self.header));
        Ok(self.redis.publish_event(topic, message).await?)
    }

    /// Waits until Redis has confirmed an entry of the table.
    pub(crate) async fn confirm(&self, filter: &TopicFilter, incarnation: u64) -> Result<(), SubscribeError> {
        Ok(self.redis.confirm(filter, incarnation).await?)
    }

    /// Nobody wants an entry any more.
    pub(crate) fn release(&self, idle: Idle) {
        self.redis.release(idle);
    }
}

// === impl Intake ===

impl Intake {
    pub(crate) fn new(table: Arc<Table>, metrics: Metrics, hub: &HubId) -> Self {
        let bare = encode("", "", None, None);
        let own_tail = encode("", "", None, Some(&header(hub))).slice(bare.len() - 1..);
        Self {
            table,
            metrics,
            own_tail,
        }
    }

    fn malformed(&self, topic: &str, event_type: &str, readers: &Readers) {
        self.metrics.malformed.inc();
        let loss = Loss {
            reason: Reason::Malformed,
            missed: Some(1),
        };
        let gaps = match topic.parse() {
            Ok(topic) => readers.push_gap(&topic, loss),
            // The id is not valid, so only readers of all ids can have wanted it.
            Err(_) => readers.push_gap_of(&TopicFilter::AllOf(event_type.into()), loss),
        };
        self.metrics.gaps(Reason::Malformed, gaps);
    }
}

impl TopicTable for Intake {
    fn begin(&self) -> Vec<TopicFilter> {
        self.table.begin()
    }

    fn incarnation(&self, filter: &TopicFilter) -> Option<u64> {
        self.table.incarnation(filter)
    }

    fn mark(&self, filter: &TopicFilter, incarnation: u64) {
        self.table.mark(filter, incarnation);
    }

    /// Readers that may have missed events since an earlier incarnation get a gap.
    fn resumed(&self, filter: &TopicFilter) {
        if let Some(readers) = self.table.resumed(filter) {
            let loss = Loss {
                reason: Reason::Reconnected,
                missed: None,
            };
            self.metrics
                .gaps(Reason::Reconnected, readers.push_gap_of(filter, loss));
        }
    }

    fn expire(&self, idle: &Idle) -> Expiry {
        self.table.expire(idle)
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
            Ok(envelope) if hops(&envelope) > HOP_LIMIT => self.metrics.too_far.inc(),
            Ok(envelope) => match topic_of(&envelope).filter(|named| named.as_str() == topic) {
                Some(topic) => {
                    self.metrics.received.inc();
                    let publication = Publication::counted(topic, envelope.payload.as_ref(), self.table.live());
                    self.metrics.spread(readers.push(&Arc::new(publication)));
                }
                None => self.malformed(topic, event_type, &readers),
            },
            Err(_) => self.malformed(topic, event_type, &readers),
        }
    }
}

fn hops(envelope: &Envelope) -> u8 {
    envelope.transport.as_ref().map_or(0, |header| header.hop)
}

fn topic_of(envelope: &Envelope) -> Option<Topic> {
    Topic::new(&envelope.kind, &envelope.id).ok()
}
