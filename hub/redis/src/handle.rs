//! The handle through which the bus and the cluster use Redis.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::{HubId, Topic, TopicFilter};
use alkhub_retry::LinkState;
use bytes::Bytes;
use tokio::sync::watch;

use crate::channel::Names;
use crate::error::{Error, Unconfirmed};
use crate::incarnation::Incarnation;
use crate::link::{Link, LinkHold};
use crate::publisher::Publisher;
use crate::receive::Idle;
use crate::subscriber::SubscribeHandle;

/// One hub's Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redis {
    pub(crate) link: Link,
    pub(crate) names: Arc<Names>,
    pub(crate) publisher: Publisher,
    pub(crate) subscriber: SubscribeHandle,
    pub(crate) timeout: Duration,
}

// === impl Redis ===

impl Redis {
    /// The state of the link, now and later.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.link.state()
    }

    /// The present incarnation, for scripts.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: the link is down.
    pub fn incarnation(&self) -> Result<Arc<Incarnation>, Error> {
        self.link.incarnation()
    }

    /// Keeps the link open at the end of the hub until the hold is dropped.
    pub fn hold(&self) -> LinkHold {
        self.link.hold()
    }

    /// Publishes an event's message to every process of the prefix, and waits until Redis has it. Dropping the future
    /// after its first poll does not take it back.
    ///
    /// # Errors
    /// The link is down, or Redis did not confirm.
    pub async fn publish_event(&self, topic: &Topic, message: Bytes) -> Result<(), Unconfirmed> {
        self.publisher.publish(self.names.topic(topic), message).await
    }

    /// Publishes a change of keys to every hub, and waits until Redis has it. Dropping the future after its first poll
    /// does not take it back.
    ///
    /// # Errors
    /// The link is down, or Redis did not confirm.
    pub async fn publish_key_change(&self, message: Bytes) -> Result<(), Unconfirmed> {
        let channel = self.names.key_changes().to_owned();
        self.publisher.publish(channel, message).await
    }

    /// Queues a message for one hub. The [`HubReceiver`](crate::HubReceiver) learns what happened to it.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: the link is down. [`Error::Full`]: too much waits.
    pub fn relay(&self, to: &HubId, message: Bytes) -> Result<(), Error> {
        self.publisher.relay(to.clone(), message)
    }

    /// Waits until Redis has confirmed an entry of the [`TopicTable`](crate::TopicTable). `incarnation` is the one that
    /// had confirmed it before; 0 if none had. Dropping the future takes nothing back.
    ///
    /// # Errors
    /// The link is down, or Redis refuses or does not confirm in time.
    pub async fn confirm(&self, filter: &TopicFilter, incarnation: u64) -> Result<(), Error> {
        let current = self.link.incarnation()?.number;
        if incarnation == current {
            return Ok(());
        }
        match tokio::time::timeout(self.timeout, self.subscriber.confirm(filter)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(self.link.why_down()),
            Err(_) => Err(Error::Timeout(self.timeout)),
        }
    }

    /// An entry has no subscriber any more: Redis is unsubscribed after the grace period, unless it is wanted again by
    /// then.
    pub fn release(&self, idle: Idle) {
        self.subscriber.release(idle);
    }
}
