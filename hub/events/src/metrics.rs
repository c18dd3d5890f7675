//! The metrics of this crate.

use alkhub_redis::dropped;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::mailbox::Reason;
use crate::table::Spread;

/// Every family, registered once per hub.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) published: IntCounter,
    pub(crate) received: IntCounter,
    pub(crate) delivered: IntCounter,
    /// Events that were lost because their reader was too slow.
    overflowed: IntCounter,
    /// Messages that were not envelopes, or not of their channel.
    pub(crate) malformed: IntCounter,
    /// Events that had passed too many bridges.
    pub(crate) too_far: IntCounter,
    gaps: IntCounterVec,
    pub(crate) subscriptions: IntGauge,
    pub(crate) publish_failures: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let help = "Gaps that were put into the queues of readers.";
        let gaps = IntCounterVec::new(Opts::new("alkhub_events_gaps_total", help), &["reason"])?;
        registry.register(Box::new(gaps.clone()))?;
        let subscriptions = IntGauge::new("alkhub_events_subscriptions", "Subscriptions of this hub's readers.")?;
        registry.register(Box::new(subscriptions.clone()))?;
        let metrics = Self {
            published: counter(
                "alkhub_events_published_total",
                "Events that were published on this hub.",
            )?,
            received: counter(
                "alkhub_events_received_total",
                "Events that came from other processes through Redis.",
            )?,
            delivered: counter(
                "alkhub_events_delivered_total",
                "Events that were queued for one reader each.",
            )?,
            overflowed: dropped(registry, "overflow")?,
            malformed: dropped(registry, "malformed")?,
            too_far: dropped(registry, "hops")?,
            gaps,
            subscriptions,
            publish_failures: counter(
                "alkhub_events_publish_failures_total",
                "Events that were published on this hub and that Redis did not confirm.",
            )?,
        };
        // Every label value exists from the start, so that a rate over the first increase is right.
        for reason in Reason::ALL {
            metrics.gaps.with_label_values(&[reason.as_str()]);
        }
        Ok(metrics)
    }

    /// Counts the result of pushing an event to its readers.
    pub(crate) fn spread(&self, spread: Spread) {
        self.delivered.inc_by(spread.delivered as u64);
        self.overflowed.inc_by(spread.dropped as u64);
        self.gaps(Reason::Overflow, spread.gaps);
    }

    pub(crate) fn gaps(&self, reason: Reason, count: usize) {
        if count > 0 {
            self.gaps.with_label_values(&[reason.as_str()]).inc_by(count as u64);
        }
    }
}
