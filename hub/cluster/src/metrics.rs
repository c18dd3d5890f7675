//! The metrics of this crate.

use alkhub_redis::dropped;
use prometheus::{IntCounter, IntGauge, Registry};

/// Every family, registered once per hub.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) relayed: IntCounter,
    pub(crate) undeliverable: IntCounter,
    pub(crate) hubs: IntGauge,
    /// Messages relayed to this hub, which did not read as fast as they came.
    pub(crate) unread: IntCounter,
    /// Messages that came back, and that nobody here reads.
    pub(crate) forsaken: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let hubs = IntGauge::new(
            "alkhub_events_hubs",
            "Hubs with a live lease under this prefix, this one included.",
        )?;
        registry.register(Box::new(hubs.clone()))?;
        Ok(Self {
            relayed: counter(
                "alkhub_events_relayed_total",
                "Messages to other hubs that were handed to Redis.",
            )?,
            undeliverable: counter(
                "alkhub_events_undeliverable_total",
                "Messages to other hubs that nobody received, or that were on their way when the link broke.",
            )?,
            hubs,
            unread: dropped(registry, "unread")?,
            forsaken: dropped(registry, "undeliverable")?,
        })
    }
}
