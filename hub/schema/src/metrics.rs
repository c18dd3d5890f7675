//! Every metric of this crate.

use prometheus::{Error, IntCounter, IntGauge, Registry};

/// What the cache reports.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) bytes: IntGauge,
    pub(crate) refused: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, Error> {
        let metrics = Self {
            bytes: IntGauge::new(
                "alkhub_operation_spec_bytes",
                "Memory that compiled specifications take at most, in bytes.",
            )?,
            refused: IntCounter::new(
                "alkhub_operation_specs_refused_total",
                "Specifications refused because the hub's or their spoke's budget of compiled bytes was used up.",
            )?,
        };
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        Ok(metrics)
    }
}
