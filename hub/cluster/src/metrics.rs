//! The metrics of this crate.

use alkhub_redis::dropped;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// All metric families, registered once per hub.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) relayed: IntCounter,
    pub(crate) undeliverable: IntCounter,
    pub(crate) hubs: IntGauge,
    /// Messages of conduits that went over a link from pod to pod, and those that went through Redis.
    pub(crate) by_link: IntCounter,
    pub(crate) by_redis: IntCounter,
    pub(crate) conduit_resent: IntCounter,
    pub(crate) conduit_breaks: IntCounter,
    pub(crate) conduit_bytes: IntGauge,
    /// Messages relayed to this hub that were dropped because it did not read fast enough.
    pub(crate) unread: IntCounter,
    /// Messages that came back and that nobody here reads.
    pub(crate) forsaken: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let carried = IntCounterVec::new(
            Opts::new(
                "alkhub_conduit_messages_total",
                "Messages to other hubs by what carried them: `link` from pod to pod, or `redis`.",
            ),
            &["carrier"],
        )?;
        registry.register(Box::new(carried.clone()))?;
        Ok(Self {
            by_link: carried.with_label_values(&["link"]),
            by_redis: carried.with_label_values(&["redis"]),
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
            conduit_resent: counter(
                "alkhub_conduit_resent_total",
                "Messages to other hubs that were sent again, because their arrival was not acknowledged.",
            )?,
            conduit_breaks: counter(
                "alkhub_conduit_breaks_total",
                "Breaks of the conduit between this hub and another one: what was under way was lost, and the calls ended with an error.",
            )?,
            conduit_bytes: gauge(
                "alkhub_conduit_unacknowledged_bytes",
                "What was sent to other hubs and is kept until its arrival is acknowledged, in bytes.",
            )?,
            unread: dropped(registry, "unread")?,
            forsaken: dropped(registry, "undeliverable")?,
        })
    }
}
