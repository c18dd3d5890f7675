//! The bus: publish an event, subscribe to a topic.
//!
//! An event reaches the subscribers of this hub at once, and then Redis carries it to the other hubs; a hub drops its
//! own events when they come back. So events of one publisher reach each reader in the order of publishing; events of
//! publishers on different hubs may be seen in different orders on different hubs.

use std::fmt;
use std::sync::Arc;

use alkhub_config::EventsConfig;
use alkhub_protocol::{Delivered, RawJson, Topic, TopicFilter};
use alkhub_redis::Connector;
use prometheus::Registry;

use crate::error::{PublishError, SubscribeError};
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::publication::Publication;
use crate::table::Table;
use crate::target::Target;
use crate::target::local::Local;
use crate::target::redis::{Intake, Outlet};

/// Publishes and subscribes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus {
    inner: Arc<BusInner>,
}

/// An event that was published everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishReceipt {
    /// How many readers on this hub have it queued.
    pub local: usize,
}

/// A subscription that the transport confirmed. Dropping it ends it.
#[must_use = "a subscription ends when it is dropped"]
pub struct Subscription {
    filter: TopicFilter,
    mailbox: Mailbox,
    inner: Arc<BusInner>,
}

#[derive(Debug)]
struct BusInner {
    table: Arc<Table>,
    target: Target,
    metrics: Metrics,
}

// === impl Bus ===

impl Bus {
    /// The bus of one hub, on its link to Redis; events flow once that is started.
    ///
    /// # Errors
    /// A metric is registered already.
    pub fn new(config: &EventsConfig, link: &mut Connector, registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let table = Arc::new(Table::new(config.waiting_bytes));
        let target = match link.redis() {
            Some(redis) => {
                let intake = Intake::new(table.clone(), metrics.clone(), link.hub());
                link.set_topics(Arc::new(intake));
                Target::Redis(Outlet::new(redis, link.hub()))
            }
            None => Target::Local(Local),
        };
        Ok(Self {
            inner: Arc::new(BusInner { table, target, metrics }),
        })
    }

    /// Publishes an event: to the subscribers of this hub at once, then to every other hub.
    ///
    /// Dropping the future after its first poll does not take the event back.
    ///
    /// # Errors
    /// Redis is away, or did not confirm in time. [`PublishError::delivered`] says what is known.
    pub async fn publish(&self, topic: &Topic, payload: Option<RawJson>) -> Result<PublishReceipt, PublishError> {
        let BusInner { table, target, metrics } = &*self.inner;
        metrics.published.inc();
        let readers = table.readers(topic.as_str(), topic.event_type());
        let mut local = 0;
        if !readers.is_empty() {
            let publication = Publication::counted(topic.clone(), payload.as_ref(), table.live());
            let spread = readers.push(&Arc::new(publication));
            metrics.spread(spread);
            local = spread.delivered;
        }
        match target.carry(topic, payload.as_ref()).await {
            Ok(()) => Ok(PublishReceipt { local }),
            Err(mut error) => {
                metrics.publish_failures.inc();
                if local > 0 {
                    error.delivered = Delivered::Maybe;
                }
                Err(error)
            }
        }
    }

    /// Subscribes a mailbox to a topic, or to all ids of a type. When it returns, the transport has confirmed: anything
    /// published anywhere after that is seen.
    ///
    /// A mailbox that is subscribed to a topic twice, in whatever way, gets each event once. If the future is dropped,
    /// nothing is subscribed.
    ///
    /// # Errors
    /// At once while the link is down, and if Redis does not confirm in time; either way it can be tried again.
    pub async fn subscribe(&self, filter: TopicFilter, mailbox: &Mailbox) -> Result<Subscription, SubscribeError> {
        // Checked before it is entered: entries made while the link is down would stay until it is back.
        self.inner.target.ready()?;
        let incarnation = self.inner.table.join(&filter, mailbox.queue());
        self.inner.metrics.subscriptions.inc();
        let subscription = Subscription {
            filter,
            mailbox: mailbox.clone(),
            inner: self.inner.clone(),
        };
        self.inner.target.confirm(&subscription.filter, incarnation).await?;
        Ok(subscription)
    }
}

// === impl Subscription ===

impl Subscription {
    /// What it asked for.
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let BusInner { table, target, metrics } = &*self.inner;
        metrics.subscriptions.dec();
        if let Some(idle) = table.leave(&self.filter, self.mailbox.queue()) {
            target.release(table, idle);
        }
    }
}

#[cfg(test)]
mod tests;
