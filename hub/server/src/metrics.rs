//! The metrics of a hub process.

use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry};

/// One family.
#[derive(Clone, Copy, Debug)]
struct Family {
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
}

const BUILD_INFO: Family = Family {
    name: "alkhub_build_info",
    labels: &["version"],
    help: "Always 1; the label tells the version that runs.",
};
const READY: Family = Family {
    name: "alkhub_ready",
    labels: &[],
    help: "1 while `/readyz` answers 200.",
};
const STARTED: Family = Family {
    name: "alkhub_start_time_seconds",
    labels: &[],
    help: "When this hub started, in seconds since the epoch.",
};

/// Handles to the metrics of one hub.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) ready: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and puts them, and those of the process, into the registry.
    ///
    /// # Errors
    /// The registry has one of the names already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            ready: IntGauge::new(READY.name, READY.help)?,
        };
        registry.register(Box::new(metrics.ready.clone()))?;
        let build = IntGaugeVec::new(Opts::new(BUILD_INFO.name, BUILD_INFO.help), BUILD_INFO.labels)?;
        build.with_label_values(&[alkhub_edge::VERSION]).set(1);
        registry.register(Box::new(build))?;
        let started = Gauge::new(STARTED.name, STARTED.help)?;
        started.set(jiff::Timestamp::now().as_duration().as_secs_f64());
        registry.register(Box::new(started))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_there_from_the_start() {
        let registry = Registry::new();
        let _metrics = Metrics::new(&registry).expect("new names");

        let gathered = registry.gather();

        for family in [BUILD_INFO, READY, STARTED] {
            let found = gathered.iter().find(|found| found.name() == family.name);
            let found = found.unwrap_or_else(|| panic!("{} has no series", family.name));
            assert_eq!(found.help(), family.help);
        }
        assert!(
            gathered
                .iter()
                .any(|family| family.name() == "process_resident_memory_bytes")
        );
    }
}
