//! The metrics of this crate.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

/// The families of the link. A hub without Redis does not have them, so that no series shows its link as down.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) up: IntGauge,
    pub(crate) reconnects: IntCounter,
    pub(crate) probe_seconds: Histogram,
    /// The queue behind the link was full, and the link was made anew.
    pub(crate) overflowed: IntCounter,
}

/// A counter of `alkhub_events_dropped_total` for one reason. Each crate between Redis and the readers counts its own
/// reasons; together they are one family.
///
/// # Errors
/// The reason is registered already.
pub fn dropped(registry: &Registry, reason: &'static str) -> Result<IntCounter, prometheus::Error> {
    let help = "Events and relayed messages that were dropped; the readers of events got a gap.";
    let counter = IntCounter::with_opts(Opts::new("alkhub_events_dropped_total", help).const_label("reason", reason))?;
    registry.register(Box::new(counter.clone())).map(|()| counter)
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let probe_seconds = HistogramOpts::new(
            "alkhub_redis_probe_seconds",
            "Time of a message of this hub to itself through Redis.",
        );
        let buckets = vec![
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
        ];
        let metrics = Self {
            up: IntGauge::new(
                "alkhub_redis_up",
                "1 when the link to Redis works, 0 when it is down; absent without Redis.",
            )?,
            reconnects: IntCounter::new(
                "alkhub_redis_reconnects_total",
                "Times that the link to Redis was made anew.",
            )?,
            probe_seconds: Histogram::with_opts(probe_seconds.buckets(buckets))?,
            overflowed: dropped(registry, "link_overflow")?,
        };
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.reconnects.clone()))?;
        registry.register(Box::new(metrics.probe_seconds.clone()))?;
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_of_all_crates_are_one_family() {
        let registry = Registry::new();
        let (one, other) = (dropped(&registry, "one"), dropped(&registry, "other"));
        one.expect("a new reason").inc();
        other.expect("a new reason").inc_by(2);

        let families = registry.gather();

        let [family] = &families[..] else {
            panic!("{families:?}")
        };
        let values = |metric: &prometheus::proto::Metric| {
            (
                metric.get_label()[0].value().to_owned(),
                metric.get_counter().get_value(),
            )
        };
        let mut values: Vec<_> = family.get_metric().iter().map(values).collect();
        values.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(values, [("one".to_owned(), 1.0), ("other".to_owned(), 2.0)]);
        assert!(dropped(&registry, "one").is_err(), "a reason has one owner");
    }
}
