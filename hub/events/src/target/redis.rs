//! Events and everything else through one Redis.
//!
//! A *session* is one life of the link: a connection that only receives ([`reader`]), and one for everything else.
//! Either one lost ends both: [`link`] makes a new session, subscribes everything anew, and only then calls the link
//! up. What was lost in between is told to each subscriber as a gap at the place where its topic was confirmed again.
//!
//! While the link is down, publishing and subscribing fail at once; both can be tried again. Nothing waits for a link
//! that may not come.

mod connect;
mod link;
mod probe;
mod publisher;
mod reader;
pub(crate) mod scripts;
mod session;
mod subscriber;

use std::sync::Arc;
use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_protocol::envelope::{TransportHeader, encode};
use alkhub_protocol::{HubId, RawJson, Topic, TopicFilter};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::bus::{Idle, Table};
use crate::channel::Names;
use crate::cluster::Undelivered;
use crate::metrics::Metrics;
use crate::{Error, PublishError};
pub(crate) use connect::client;
pub(crate) use link::{Link, Runner};
use publisher::Publisher;
pub(crate) use reader::Routes;
pub(crate) use session::Session;
use subscriber::Requests;

/// What [`Redis::new`] needs.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a EventsConfig,
    pub(crate) hub: &'a HubId,
    pub(crate) names: Arc<Names>,
    pub(crate) table: Arc<Table>,
    pub(crate) client: redis::Client,
    pub(crate) metrics: Metrics,
    /// Takes relayed messages that nobody received.
    pub(crate) undeliverable: mpsc::Sender<Undelivered>,
}

/// The handle: what the bus and the cluster use.
#[derive(Clone, Debug)]
pub(crate) struct Redis {
    link: Link,
    names: Arc<Names>,
    header: Arc<TransportHeader>,
    publisher: Publisher,
    requests: Requests,
    timeout: Duration,
}

// === impl Redis ===

impl Redis {
    /// The handle, and what has to run behind it.
    pub(crate) fn new(parts: Parts<'_>) -> (Self, Runner) {
        let Parts {
            config,
            hub,
            names,
            table,
            client,
            metrics,
            undeliverable,
        } = parts;
        let link = Link::new();
        let header = Arc::new(TransportHeader {
            node: hub.as_str().to_owned(),
            hop: 0,
        });
        let (publisher, publishing) = publisher::new(link.clone(), metrics.clone(), undeliverable);
        let (requests, subscribing) = subscriber::new(table.clone(), names.clone(), config.unsubscribe_grace);
        let redis = Self {
            link: link.clone(),
            names: names.clone(),
            header: header.clone(),
            publisher,
            requests,
            timeout: config.timeout,
        };
        let reading = reader::Reading::new(names.clone(), table, &header, metrics.clone());
        let limits = link::Limits {
            timeout: config.timeout,
            probe_interval: config.probe_interval,
            queue: config.link_queue,
        };
        (
            redis,
            Runner {
                client,
                limits,
                link,
                names,
                metrics,
                publishing,
                subscribing,
                reading,
            },
        )
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Takes an event to the other processes of the prefix and waits until Redis has it.
    pub(crate) async fn carry(&self, topic: &Topic, payload: Option<&RawJson>) -> Result<(), PublishError> {
        let message = encode(topic.event_type(), topic.id(), payload, Some(&self.header));
        self.publisher.publish(self.names.topic(topic), message).await
    }

    /// Hands a message to the publisher, for the inbox of a hub.
    pub(crate) fn relay(&self, to: &HubId, message: Bytes) -> Result<(), Error> {
        self.publisher.relay(self.names.inbox(to), to.clone(), message)
    }

    /// Publishes without an envelope.
    pub(crate) async fn tell(&self, channel: &str, message: Bytes) -> Result<(), PublishError> {
        self.publisher.publish(channel.to_owned(), message).await
    }

    /// Waits until Redis has confirmed an entry of the table.
    pub(crate) async fn confirm(&self, filter: &TopicFilter, session: u64) -> Result<(), Error> {
        let current = self.link.session()?.number;
        if session == current {
            return Ok(());
        }
        match tokio::time::timeout(self.timeout, self.requests.confirm(filter)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(self.link.why_down()),
            Err(_) => Err(Error::Timeout(self.timeout)),
        }
    }

    /// Nobody wants an entry any more.
    pub(crate) fn release(&self, idle: Idle) {
        self.requests.release(idle);
    }
}
