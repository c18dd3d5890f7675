//! Every metric of the operator.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alkhub_crds::{Hub, HubStatus, SpokePhase, condition};
use kube::ResourceExt as _;
use parking_lot::{Mutex, RwLock};
use prometheus::{Gauge, GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, histogram_opts};
use tokio::time::Instant;

use crate::watch::Stores;

/// The metrics; one set for each process, in the registry that was passed in.
pub struct Metrics {
    pub(crate) reconciles: IntCounterVec,
    pub(crate) reconcile_duration: HistogramVec,
    pub(crate) leader: IntGauge,
    pub(crate) api_reachable: IntGauge,
    pub(crate) api_writes: IntCounterVec,
    pub(crate) hub_polls: IntCounterVec,
    pub(crate) watch_errors: IntCounterVec,
    pub(crate) malformed_objects: IntCounterVec,
    watch_age: GaugeVec,
    hubs: IntGaugeVec,
    spokes: IntGaugeVec,
    each: EachHub,
    heard: Mutex<HashMap<&'static str, Instant>>,
    /// Those of the leader, and since when.
    stores: RwLock<Option<(Arc<Stores>, Instant)>>,
    stores_filled: IntGauge,
    lost: AtomicBool,
}

/// One series for each Hub: what alerts compare with what is scraped, for pods that are gone say nothing themselves.
#[derive(Debug)]
struct EachHub {
    ready: IntGaugeVec,
    replicas: IntGaugeVec,
    ready_replicas: IntGaugeVec,
    /// Namespace and name of the Hubs that have series.
    shown: Mutex<HashSet<(String, String)>>,
}

/// The values of the label `ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HubState {
    Ready,
    NotReady,
    Stopped,
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
            each: EachHub::new(gauges)?,
            heard: Mutex::default(),
            stores: RwLock::default(),
            stores_filled: gauge(
                "stores_filled",
                "1 while this process leads and knows what there is of every kind; without that it reconciles nothing.",
            )?,
            lost: AtomicBool::new(false),
        };
        registry.register(Box::new(metrics.reconcile_duration.clone()))?;
        registry.register(Box::new(metrics.watch_age.clone()))?;
        registry.register(Box::new(build_info()?))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        metrics.begin_at_zero();
        Ok(metrics)
    }

    /// A watch of the kind brought something.
    pub(crate) fn heard(&self, kind: &'static str) {
        self.heard.lock().insert(kind, Instant::now());
    }

    /// Whether a watch of the kind has brought anything.
    #[cfg(test)]
    pub(crate) fn has_heard(&self, kind: &str) -> bool {
        self.heard.lock().contains_key(kind)
    }

    /// Time since the Lease's watch brought anything; `None` before the first.
    pub(crate) fn lease_age(&self) -> Option<std::time::Duration> {
        self.heard.lock().get("Lease").map(Instant::elapsed)
    }

    /// Counts come from these stores while this process leads.
    pub(crate) fn observe(&self, stores: Option<Arc<Stores>>) {
        *self.stores.write() = stores.map(|stores| (stores, Instant::now()));
    }

    /// How long this process has led without knowing what there is; `None`: it knows, or does not lead.
    pub(crate) fn blind(&self) -> Option<std::time::Duration> {
        let stores = self.stores.read();
        let (stores, since) = stores.as_ref()?;
        (!stores.is_filled()).then(|| since.elapsed())
    }

    /// A task that this process lives by has ended: it is unready for good, and ends.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether [`Metrics::lose`] was called.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Brings up to date what is only counted when somebody asks.
    pub(crate) fn refresh(&self) {
        for (kind, at) in self.heard.lock().iter() {
            self.watch_age
                .with_label_values(&[kind])
                .set(at.elapsed().as_secs_f64());
        }
        let stores = self.stores.read().as_ref().map(|(stores, _)| Arc::clone(stores));
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

    /// Brings the series of each Hub up to date; those of other Hubs go.
    pub fn show_hubs(&self, hubs: &[Arc<Hub>]) {
        for state in HubState::ALL {
            let number = hubs.iter().filter(|hub| HubState::of(hub) == state).count();
            self.hubs.with_label_values(&[state.as_str()]).set(count(number));
        }
        self.each.refresh(hubs);
    }

    /// Every label value of a closed set is there from the start, so that a rate has something to begin from.
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
        self.watch_age.with_label_values(&["Lease"]).set(0.0);
        self.refresh();
    }
}

// === impl EachHub ===

impl EachHub {
    /// Makes the families with `gauges(name, help, labels)`.
    fn new<E>(gauges: impl Fn(&str, &str, &[&str]) -> Result<IntGaugeVec, E>) -> Result<Self, E> {
        let labels = &["namespace", "hub"];
        Ok(Self {
            ready: gauges(
                "hub_ready",
                "1 when a Hub's condition Ready is true, else 0; absent while it is scaled to 0.",
                labels,
            )?,
            replicas: gauges(
                "hub_replicas",
                "Pods that a Hub should have; 0 while its spec was never accepted.",
                labels,
            )?,
            ready_replicas: gauges("hub_ready_replicas", "Pods of a Hub that are ready.", labels)?,
            shown: Mutex::default(),
        })
    }

    /// Brings the series up to date. Those of Hubs that are gone go; the others never vanish in between, for somebody
    /// else may be gathering.
    fn refresh(&self, hubs: &[Arc<Hub>]) {
        let mut shown = self.shown.lock();
        let mut gone = std::mem::take(&mut *shown);
        for hub in hubs {
            let name = (hub.namespace().unwrap_or_default(), hub.name_any());
            self.set(&[&name.0, &name.1], hub);
            gone.remove(&name);
            shown.insert(name);
        }
        for (namespace, name) in gone {
            let labels = &[namespace.as_str(), name.as_str()];
            for family in [&self.ready, &self.replicas, &self.ready_replicas] {
                // It is not there when the Hub was scaled to 0.
                drop(family.remove_label_values(labels));
            }
        }
    }

    fn set(&self, labels: &[&str; 2], hub: &Hub) {
        let status = hub.status.as_ref();
        // The schema is in the status from the first time on that the Hub was applied; the image only when a pod was ready.
        let applied = status.is_some_and(|status| status.schema.is_some());
        let replicas = if applied { hub.spec.replicas } else { 0 };
        self.replicas.with_label_values(labels).set(replicas.into());
        let ready = status.map(|status| status.ready_replicas).unwrap_or_default();
        self.ready_replicas.with_label_values(labels).set(ready.into());
        match HubState::of(hub) {
            HubState::Stopped => drop(self.ready.remove_label_values(labels)),
            state => self
                .ready
                .with_label_values(labels)
                .set((state == HubState::Ready).into()),
        }
    }
}

// === impl HubState ===

impl HubState {
    const ALL: [Self; 3] = [Self::Ready, Self::NotReady, Self::Stopped];

    fn of(hub: &Hub) -> Self {
        let ready = |status: &HubStatus| condition::is_true(&status.conditions, condition::READY);
        // A Hub that asks for none and was refused runs on: what its pods do is shown.
        let runs = |status: &HubStatus| status.replicas > 0 || status.ready_replicas > 0;
        if hub.spec.replicas == 0 && !hub.status.as_ref().is_some_and(runs) {
            Self::Stopped
        } else if hub.status.as_ref().is_some_and(ready) {
            Self::Ready
        } else {
            Self::NotReady
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "true",
            Self::NotReady => "false",
            Self::Stopped => "stopped",
        }
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
mod tests {
    use super::*;

    fn hub(name: &str, replicas: i32, status: &serde_json::Value) -> Arc<Hub> {
        let spec = serde_json::json!({
            "replicas": replicas, "redis": { "managed": true }, "postgres": { "managed": true },
        });
        let hub = serde_json::json!({
            "apiVersion": "alkhub.dev/v1alpha1", "kind": "Hub", "metadata": { "namespace": "n", "name": name },
            "spec": spec, "status": status,
        });
        Arc::new(serde_json::from_value(hub).expect("a Hub"))
    }

    fn ready(status: &str) -> serde_json::Value {
        let condition = serde_json::json!({
            "type": "Ready", "status": status, "reason": "Any", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        serde_json::json!({ "schema": "alk_n_h", "readyReplicas": 1, "conditions": [condition] })
    }

    fn series(registry: &Registry) -> Vec<String> {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .expect("text");
        let of_each = |line: &&str| line.starts_with("alkhub_operator_hub_re");
        text.lines().filter(of_each).map(str::to_owned).collect()
    }

    #[test]
    fn each_hub_says_what_it_should_have_and_a_stopped_or_refused_one_wants_no_pods() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("registered");

        metrics.show_hubs(&[
            hub("down", 2, &ready("False")),
            hub("refused", 2, &serde_json::json!({})),
            hub("new", 2, &serde_json::json!({ "schema": "alk_n_new" })),
            hub("running", 0, &ready("True")),
            hub("stopped", 0, &serde_json::json!({ "schema": "alk_n_stopped" })),
            hub("up", 1, &ready("True")),
        ]);

        assert_eq!(
            series(&registry),
            [
                r#"alkhub_operator_hub_ready{hub="down",namespace="n"} 0"#,
                r#"alkhub_operator_hub_ready{hub="new",namespace="n"} 0"#,
                r#"alkhub_operator_hub_ready{hub="refused",namespace="n"} 0"#,
                r#"alkhub_operator_hub_ready{hub="running",namespace="n"} 1"#,
                r#"alkhub_operator_hub_ready{hub="up",namespace="n"} 1"#,
                r#"alkhub_operator_hub_ready_replicas{hub="down",namespace="n"} 1"#,
                r#"alkhub_operator_hub_ready_replicas{hub="new",namespace="n"} 0"#,
                r#"alkhub_operator_hub_ready_replicas{hub="refused",namespace="n"} 0"#,
                r#"alkhub_operator_hub_ready_replicas{hub="running",namespace="n"} 1"#,
                r#"alkhub_operator_hub_ready_replicas{hub="stopped",namespace="n"} 0"#,
                r#"alkhub_operator_hub_ready_replicas{hub="up",namespace="n"} 1"#,
                r#"alkhub_operator_hub_replicas{hub="down",namespace="n"} 2"#,
                r#"alkhub_operator_hub_replicas{hub="new",namespace="n"} 2"#,
                r#"alkhub_operator_hub_replicas{hub="refused",namespace="n"} 0"#,
                r#"alkhub_operator_hub_replicas{hub="running",namespace="n"} 0"#,
                r#"alkhub_operator_hub_replicas{hub="stopped",namespace="n"} 0"#,
                r#"alkhub_operator_hub_replicas{hub="up",namespace="n"} 1"#,
            ]
        );
    }

    #[test]
    fn a_hub_that_is_gone_leaves_no_series() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("registered");
        metrics.show_hubs(&[hub("a", 1, &ready("True")), hub("b", 0, &serde_json::json!({}))]);

        metrics.show_hubs(&[]);

        assert_eq!(series(&registry), Vec::<String>::new());
    }

    #[tokio::test]
    async fn every_family_is_there_before_anything_happened() {
        let registry = Registry::new();
        Metrics::new(&registry).expect("registered");

        let names: Vec<_> = registry
            .gather()
            .iter()
            .map(|family| family.name().to_owned())
            .collect();

        for name in [
            "reconciles_total",
            "reconcile_duration_seconds",
            "leader",
            "stores_filled",
            "watch_last_event_age_seconds",
            "hubs",
            "spokes",
            "api_writes_total",
            "hub_polls_total",
            "malformed_objects_total",
            "watch_errors_total",
            "api_reachable",
            "build_info",
        ] {
            assert!(
                names.contains(&format!("alkhub_operator_{name}")),
                "{name} is missing of {names:?}"
            );
        }
    }
}
