//! The metrics of this crate.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::mailbox::Reason;

/// Why an event or a message was dropped: the closed set of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Its reader was too slow.
    Overflow,
    /// It was no envelope, or not one of its channel.
    Malformed,
    /// It had passed too many bridges.
    Hops,
    /// It was relayed to this hub, which did not read as fast as messages came.
    Unread,
    /// It was relayed to a hub that is gone, and nobody here reads the returns.
    Undeliverable,
    /// The queue behind the link was full; the link was made anew.
    LinkOverflow,
}

/// Every family, registered once per hub.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) published: IntCounter,
    pub(crate) received: IntCounter,
    pub(crate) delivered: IntCounter,
    dropped: IntCounterVec,
    gaps: IntCounterVec,
    pub(crate) subscriptions: IntGauge,
    pub(crate) publish_failures: IntCounter,
    pub(crate) relayed: IntCounter,
    pub(crate) undeliverable: IntCounter,
    pub(crate) hubs: IntGauge,
    pub(crate) link: LinkMetrics,
}

/// The families of the link to Redis; a hub without Redis does not have them, so that none of its series says that a
/// link is down.
#[derive(Clone, Debug)]
pub(crate) struct LinkMetrics {
    pub(crate) up: IntGauge,
    pub(crate) reconnects: IntCounter,
    pub(crate) probe_seconds: Histogram,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry, with_redis: bool) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let counters = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone())).map(|()| counters)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
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
            dropped: counters(
                "alkhub_events_dropped_total",
                "Events and relayed messages that were dropped; the readers of events got a gap.",
                "reason",
            )?,
            gaps: counters(
                "alkhub_events_gaps_total",
                "Gaps that were put into the queues of readers.",
                "reason",
            )?,
            subscriptions: gauge("alkhub_events_subscriptions", "Subscriptions of this hub's readers.")?,
            publish_failures: counter(
                "alkhub_events_publish_failures_total",
                "Events that were published on this hub and that Redis did not confirm.",
            )?,
            relayed: counter(
                "alkhub_events_relayed_total",
                "Messages to other hubs that were handed to Redis.",
            )?,
            undeliverable: counter(
                "alkhub_events_undeliverable_total",
                "Messages to other hubs that nobody received, or that were on their way when the link broke.",
            )?,
            hubs: gauge(
                "alkhub_events_hubs",
                "Hubs with a live lease under this prefix, this one included.",
            )?,
            link: LinkMetrics::new()?,
        };
        if with_redis {
            metrics.link.register(registry)?;
        }
        metrics.show_labels();
        Ok(metrics)
    }

    pub(crate) fn dropped(&self, reason: Dropped, count: usize) {
        if count > 0 {
            self.dropped.with_label_values(&[reason.as_str()]).inc_by(count as u64);
        }
    }

    pub(crate) fn gaps(&self, reason: Reason, count: usize) {
        if count > 0 {
            self.gaps.with_label_values(&[reason.as_str()]).inc_by(count as u64);
        }
    }

    /// Makes every label value visible from the start, so that a rate over the first one is right.
    fn show_labels(&self) {
        for reason in Dropped::ALL {
            self.dropped.with_label_values(&[reason.as_str()]);
        }
        for reason in Reason::ALL {
            self.gaps.with_label_values(&[reason.as_str()]);
        }
    }
}

// === impl LinkMetrics ===

impl LinkMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        let probe_seconds = HistogramOpts::new(
            "alkhub_redis_probe_seconds",
            "Time of a message of this hub to itself through Redis.",
        );
        let buckets = vec![
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
        ];
        Ok(Self {
            up: IntGauge::new(
                "alkhub_redis_up",
                "1 when the link to Redis works, 0 when it is down; absent without Redis.",
            )?,
            reconnects: IntCounter::new(
                "alkhub_redis_reconnects_total",
                "Times that the link to Redis was made anew.",
            )?,
            probe_seconds: Histogram::with_opts(probe_seconds.buckets(buckets))?,
        })
    }

    fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.up.clone()))?;
        registry.register(Box::new(self.reconnects.clone()))?;
        registry.register(Box::new(self.probe_seconds.clone()))
    }
}

// === impl Dropped ===

impl Dropped {
    const ALL: [Self; 6] = [
        Self::Overflow,
        Self::Malformed,
        Self::Hops,
        Self::Unread,
        Self::Undeliverable,
        Self::LinkOverflow,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Malformed => "malformed",
            Self::Hops => "hops",
            Self::Unread => "unread",
            Self::Undeliverable => "undeliverable",
            Self::LinkOverflow => "link_overflow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_without_redis_does_not_say_that_its_link_is_down() {
        let names = |with_redis: bool| -> Vec<String> {
            let registry = Registry::new();
            Metrics::register(&registry, with_redis).expect("new names");
            registry
                .gather()
                .iter()
                .map(|family| family.name().to_owned())
                .collect()
        };
        let of_redis = |names: &[String]| names.iter().filter(|name| name.starts_with("alkhub_redis_")).count();

        assert_eq!(of_redis(&names(true)), 3);
        assert_eq!(of_redis(&names(false)), 0);
        assert!(names(false).contains(&"alkhub_events_published_total".to_owned()));
    }
}
