//! Every metric of this crate.
//!
//! Invariants
//! - The label `operation` has the names that were registered, up to [`OPERATION_LABELS`]; all others are `other`. Once
//!   half of them are taken, no spoke gets more than [`LABELS_PER_SPOKE`], so no single spoke can use them up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alkhub_protocol::{Code, OperationName, SpokeName};
use parking_lot::Mutex;
use prometheus::{Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// How many operations have a label value of their own.
const OPERATION_LABELS: usize = 500;

/// How many of these one spoke may have, once half of all are taken.
const LABELS_PER_SPOKE: usize = 50;

/// The label value of the other operations.
const OTHER: &str = "other";

/// The label value of a call without an error.
const OK: &str = "OK";

const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];

/// The metrics of one hub.
#[derive(Debug)]
pub(crate) struct Metrics {
    calls: IntCounterVec,
    seconds: HistogramVec,
    pub(crate) in_flight: IntGauge,
    pub(crate) resent: IntCounter,
    relayed: [IntCounter; 2],
    pub(crate) records_written: IntCounter,
    pub(crate) records_dropped: IntCounter,
    pub(crate) records_waiting: IntGauge,
    pub(crate) spokes_connected: IntGauge,
    pub(crate) spokes_reconnecting: IntGauge,
    pub(crate) instances_known: IntGauge,
    pub(crate) specs: SpecMetrics,
    registrations: [IntCounter; 2],
    pub(crate) registrations_lagging: IntCounter,
    labels: Mutex<Labels>,
    other: Arc<Series>,
    ended: AtomicU64,
    failed: AtomicU64,
}

/// The calls of this hub's callers, since the hub began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTotals {
    /// How many have ended.
    pub ended: u64,
    /// How many of these failed because of the hubs.
    pub failed: u64,
}

/// The operations with a label value of their own.
#[derive(Debug, Default)]
struct Labels {
    series: HashMap<OperationName, Arc<Series>>,
    /// How many of them each spoke has brought.
    by_spoke: HashMap<SpokeName, usize>,
}

/// The specifications in memory.
#[derive(Debug)]
pub(crate) struct SpecMetrics {
    pub(crate) missing: IntGauge,
}

/// The series of one operation; the most common outcome needs no look-up.
#[derive(Debug)]
pub(crate) struct Series {
    label: String,
    ok: IntCounter,
    seconds: Histogram,
}

/// The direction of a message between hubs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Sent,
    Received,
}

// === impl SpecMetrics ===

impl SpecMetrics {
    fn register(registry: &Registry) -> Result<Self, Error> {
        let specs = Self {
            missing: IntGauge::new(
                "alkhub_operation_specs_missing",
                "Specifications of operations on other hubs that could not be loaded yet.",
            )?,
        };
        registry.register(Box::new(specs.missing.clone()))?;
        Ok(specs)
    }
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, Error> {
        let calls = counters(
            registry,
            "alkhub_calls_total",
            "Calls that ended on the hub of their caller, by operation and code; `OK` without error.",
            &["operation", "code"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "alkhub_call_duration_seconds",
                "Time from a call's arrival at the hub of its caller to its end, by operation.",
            )
            .buckets(BUCKETS.to_vec()),
            &["operation"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let relayed = counters(
            registry,
            "alkhub_relay_messages_total",
            "Messages between hubs about calls, by direction: sent or received.",
            &["direction"],
        )?;
        let registrations = counters(
            registry,
            "alkhub_registrations_total",
            "Operations that spokes offered to this hub, by result: accepted or rejected.",
            &["result"],
        )?;
        let gauge = |name, help| gauge(registry, name, help);
        let counter = |name, help| counter(registry, name, help);
        Ok(Self {
            in_flight: gauge(
                "alkhub_calls_in_flight",
                "Calls running on this hub, those of other hubs' callers included.",
            )?,
            resent: counter(
                "alkhub_calls_resent_total",
                "Calls sent to another instance because the first one surely did not get them, or was lost with a query.",
            )?,
            registrations_lagging: counter(
                "alkhub_registrations_lagging_total",
                "Registrations that were answered before every hub could call what they offer.",
            )?,
            records_written: counter("alkhub_call_records_written_total", "Call records written to Postgres.")?,
            records_dropped: counter(
                "alkhub_call_records_dropped_total",
                "Call records dropped because Postgres did not take them in time.",
            )?,
            records_waiting: gauge("alkhub_call_records_waiting", "Call records waiting to be written.")?,
            spokes_connected: gauge(
                "alkhub_spokes_connected",
                "Instances of spokes that are connected to this hub; those that are reconnecting are not.",
            )?,
            spokes_reconnecting: gauge(
                "alkhub_spokes_reconnecting",
                "Instances of spokes that were connected to this hub, have lost their connection and may come back.",
            )?,
            instances_known: gauge(
                "alkhub_spoke_instances_known",
                "Instances of spokes in this hub's directory, on whatever hub.",
            )?,
            specs: SpecMetrics::register(registry)?,
            relayed: ["sent", "received"].map(|direction| relayed.with_label_values(&[direction])),
            registrations: ["accepted", "rejected"].map(|result| registrations.with_label_values(&[result])),
            labels: Mutex::default(),
            other: Arc::new(Series::new(&calls, &seconds, OTHER)),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            calls,
            seconds,
        })
    }

    /// The series of an operation, by the spoke that brings it; `None` for an operation of the hub itself.
    pub(crate) fn series(&self, name: &OperationName, spoke: Option<&SpokeName>) -> Arc<Series> {
        let mut labels = self.labels.lock();
        if let Some(known) = labels.series.get(name) {
            return Arc::clone(known);
        }
        if !labels.take(spoke) {
            return Arc::clone(&self.other);
        }
        let new = Arc::new(Series::new(&self.calls, &self.seconds, name.as_str()));
        labels.series.insert(name.clone(), Arc::clone(&new));
        new
    }

    /// The series of names that were never registered.
    pub(crate) fn other(&self) -> &Series {
        &self.other
    }

    /// Counts an ended call; `is_by_hub` means that it failed because of what hubs do or lack.
    pub(crate) fn ended(&self, series: &Series, code: Option<&Code>, seconds: f64, is_by_hub: bool) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if is_by_hub {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        match code {
            None => series.ok.inc(),
            Some(code) => self
                .calls
                .with_label_values(&[series.label.as_str(), code.label()])
                .inc(),
        }
        series.seconds.observe(seconds);
    }

    pub(crate) fn totals(&self) -> CallTotals {
        CallTotals {
            ended: self.ended.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn relayed(&self, direction: Direction) {
        match direction {
            Direction::Sent => self.relayed[0].inc(),
            Direction::Received => self.relayed[1].inc(),
        }
    }

    /// Counts the operations of one registration.
    pub(crate) fn registered(&self, accepted: usize, rejected: usize) {
        self.registrations[0].inc_by(accepted as u64);
        self.registrations[1].inc_by(rejected as u64);
    }
}

// === impl Labels ===

impl Labels {
    /// Takes a place for an operation of a spoke; false if there is none for it.
    fn take(&mut self, spoke: Option<&SpokeName>) -> bool {
        let taken = self.series.len();
        let Some(spoke) = spoke else {
            return taken < OPERATION_LABELS;
        };
        let of_spoke = self.by_spoke.get(spoke).copied().unwrap_or(0);
        let has_place = taken < OPERATION_LABELS / 2 || taken < OPERATION_LABELS && of_spoke < LABELS_PER_SPOKE;
        if has_place {
            self.by_spoke.insert(spoke.clone(), of_spoke + 1);
        }
        has_place
    }
}

// === impl Series ===

impl Series {
    fn new(calls: &IntCounterVec, seconds: &HistogramVec, operation: &str) -> Self {
        Self {
            label: operation.to_owned(),
            ok: calls.with_label_values(&[operation, OK]),
            seconds: seconds.with_label_values(&[operation]),
        }
    }
}

/// Whether a call that ended with this code failed because of what hubs do or lack. The other codes are the fault of
/// the caller or of the handler, or nobody can tell: a slow handler makes a deadline pass too.
pub(crate) fn is_by_hub(code: &Code) -> bool {
    matches!(
        code,
        Code::Internal | Code::NoProvider | Code::Overloaded | Code::SpokeLost | Code::Unavailable
    )
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The label of a spoke's operation of this number.
    fn label(metrics: &Metrics, spoke: usize, operation: usize) -> String {
        let name = format!("n{spoke}.op{operation}").parse().expect("valid");
        let spoke = format!("spoke-{spoke}").parse().expect("valid");
        metrics.series(&name, Some(&spoke)).label.clone()
    }

    #[test]
    fn names_over_the_bound_share_one_label() {
        let metrics = Metrics::register(&Registry::new()).expect("fresh");
        let spokes = OPERATION_LABELS / LABELS_PER_SPOKE;

        for spoke in 0..spokes {
            let labels = (0..LABELS_PER_SPOKE).map(|operation| label(&metrics, spoke, operation));
            assert!(labels.into_iter().all(|label| label != OTHER), "{spoke}");
        }

        assert_eq!(label(&metrics, spokes, 0), OTHER);
        assert_eq!(metrics.series(&"hub.health".parse().expect("valid"), None).label, OTHER);
        assert_eq!(label(&metrics, 0, 0), "n0.op0");
    }

    #[test]
    fn a_spoke_that_offers_much_leaves_labels_to_the_others() {
        let metrics = Metrics::register(&Registry::new()).expect("fresh");

        let of_one = (0..OPERATION_LABELS).map(|operation| label(&metrics, 0, operation));
        let own = of_one.filter(|label| label != OTHER).count();

        assert_eq!(own, OPERATION_LABELS / 2, "nobody else had any by then");
        assert_eq!(label(&metrics, 0, 0), "n0.op0", "what it has stays");
        let of_another: Vec<_> = (0..=LABELS_PER_SPOKE)
            .map(|operation| label(&metrics, 1, operation))
            .collect();
        assert!(of_another[..LABELS_PER_SPOKE].iter().all(|label| label != OTHER));
        assert_eq!(of_another[LABELS_PER_SPOKE], OTHER);
        assert_eq!(label(&metrics, 2, 0), "n2.op0");
    }

    #[test]
    fn what_the_hubs_make_fail_is_counted_beside_all_that_ended() {
        let metrics = Metrics::register(&Registry::new()).expect("fresh");

        for code in [
            None,
            Some(Code::SpokeLost),
            Some(Code::Timeout),
            Some(Code::ExecutionError),
            Some(Code::Unavailable),
        ] {
            let is_by_hub = code.as_ref().is_some_and(is_by_hub);
            metrics.ended(metrics.other(), code.as_ref(), 0.1, is_by_hub);
        }

        assert_eq!(metrics.totals(), CallTotals { ended: 5, failed: 2 });
    }

    #[test]
    fn domain_codes_share_one_label() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("fresh");

        metrics.ended(metrics.other(), Some(&Code::Domain("MINE".to_owned())), 0.1, false);

        let families = registry.gather();
        let calls = families
            .iter()
            .find(|f| f.name() == "alkhub_calls_total")
            .expect("registered");
        let codes: Vec<_> = calls
            .get_metric()
            .iter()
            .map(|m| m.get_label()[0].value().to_owned())
            .collect();
        assert!(
            codes.contains(&"DOMAIN".to_owned()) && !codes.contains(&"MINE".to_owned()),
            "{codes:?}"
        );
    }
}
