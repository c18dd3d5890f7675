//! Every metric of the operator.

mod hubs;

use std::fmt;
use std::sync::Arc;

use alkhub_crds::{Hub, SpokePhase};
use prometheus::{Gauge, GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, histogram_opts};

use self::hubs::{EachHub, HubState};
use crate::health::{Health, LEASE};

/// The metrics; one set for each process, in the registry that was passed in.
pub struct Metrics {
    pub(crate) reconciles: IntCounterVec,
    pub(crate) reconcile_duration: HistogramVec,
    leader: IntGauge,
    api_reachable: IntGauge,
    pub(crate) api_writes: IntCounterVec,
    pub(crate) hub_polls: IntCounterVec,
    pub(crate) watch_errors: IntCounterVec,
    pub(crate) malformed_objects: IntCounterVec,
    watch_age: GaugeVec,
    hubs: IntGaugeVec,
    spokes: IntGaugeVec,
    each: EachHub,
    stores_filled: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// A name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(format!("alkhub_operator_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(format!("alkhub_operator_{name}"), help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauges = |name: &str, help: &str, label: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(format!("alkhub_operator_{name}"), help), label)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let age = Opts::new(
            "alkhub_operator_watch_last_event_age_seconds",
            "Time since a watch of the kind brought anything. Lease changes with every renewal: its age shows whether watches live.",
        );
        let metrics = Self {
            reconciles: counter(
                "reconciles_total",
                "Reconciliations by kind and result: ok, invalid (only the user can mend it), error (tried again).",
                &["kind", "result"],
            )?,
            reconcile_duration: HistogramVec::new(
                histogram_opts!(
                    "alkhub_operator_reconcile_duration_seconds",
                    "Time that a reconciliation took.",
                    vec![0.000_1, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0]
                ),
                &["kind"],
            )?,
            leader: gauge("leader", "1 while this process holds the Lease.")?,
            api_reachable: gauge("api_reachable", "1 while the API server answers about the Lease.")?,
            api_writes: counter(
                "api_writes_total",
                "Writes sent to the API server by kind and verb; none in a steady state, the Lease aside.",
                &["kind", "verb"],
            )?,
            hub_polls: counter(
                "hub_polls_total",
                "Looks at a Hub's admin API by result: ok, error.",
                &["result"],
            )?,
            watch_errors: counter(
                "watch_errors_total",
                "Watches that broke and were begun anew, by kind.",
                &["kind"],
            )?,
            malformed_objects: counter(
                "malformed_objects_total",
                "Objects that could not be read and were passed over, by kind.",
                &["kind"],
            )?,
            watch_age: GaugeVec::new(age, &["kind"])?,
            hubs: gauges(
                "hubs",
                "Hubs by whether they are ready: true, false, or stopped (scaled to 0).",
                &["ready"],
            )?,
            spokes: gauges("spokes", "Spokes by phase.", &["phase"])?,
            each: EachHub::new(registry, gauges)?,
            stores_filled: gauge(
                "stores_filled",
                "1 while this process leads and knows what there is of every kind; without that it reconciles nothing.",
            )?,
        };
        registry.register(Box::new(metrics.reconcile_duration.clone()))?;
        registry.register(Box::new(metrics.watch_age.clone()))?;
        registry.register(Box::new(build_info()?))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        metrics.begin_at_zero();
        Ok(metrics)
    }

    /// Updates metrics that are computed only when they are scraped.
    pub(crate) fn refresh(&self, health: &Health) {
        self.leader.set(health.leads().into());
        self.api_reachable.set(health.is_reachable().into());
        for (kind, age) in health.ages() {
            self.watch_age.with_label_values(&[kind]).set(age.as_secs_f64());
        }
        let stores = health.stores();
        let filled = stores.as_ref().is_some_and(|stores| stores.is_filled());
        self.stores_filled.set(filled.into());
        let hubs = stores.as_ref().map(|stores| stores.hubs.state()).unwrap_or_default();
        let spokes = stores.as_ref().map(|stores| stores.spokes.state()).unwrap_or_default();
        self.show_hubs(&hubs);
        for phase in SpokePhase::ALL {
            let of = |status: Option<SpokePhase>| status.unwrap_or(SpokePhase::Pending) == phase;
            let number = spokes
                .iter()
                .filter(|spoke| of(spoke.status.as_ref().and_then(|s| s.phase)))
                .count();
            self.spokes.with_label_values(&[phase.as_str()]).set(count(number));
        }
    }

    /// Updates the series of each Hub and removes those of Hubs that are gone.
    pub fn show_hubs(&self, hubs: &[Arc<Hub>]) {
        for state in HubState::ALL {
            let number = hubs.iter().filter(|hub| HubState::of(hub) == state).count();
            self.hubs.with_label_values(&[state.as_str()]).set(count(number));
        }
        self.each.refresh(hubs);
    }

    /// Every label value of a closed set exists from the start, so that a rate has something to start from.
    fn begin_at_zero(&self) {
        for kind in ["Hub", "Spoke"] {
            for result in ["ok", "invalid", "error"] {
                self.reconciles.with_label_values(&[kind, result]).inc_by(0);
            }
            self.reconcile_duration.with_label_values(&[kind]);
            self.malformed_objects.with_label_values(&[kind]).inc_by(0);
            self.watch_errors.with_label_values(&[kind]).inc_by(0);
            self.api_writes.with_label_values(&[kind, "status"]).inc_by(0);
        }
        for result in ["ok", "error"] {
            self.hub_polls.with_label_values(&[result]).inc_by(0);
        }
        self.watch_age.with_label_values(&[LEASE]).set(0.0);
        self.refresh(&Health::default());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn build_info() -> Result<Gauge, prometheus::Error> {
    let build = Opts::new("alkhub_operator_build_info", "1, with the version as a label.")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    let build = Gauge::with_opts(build)?;
    build.set(1.0);
    Ok(build)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
