//! What the metrics show of each Hub.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_crds::{Hub, HubStatus, condition};
use kube::ResourceExt as _;
use parking_lot::Mutex;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

/// One series per Hub, for alerts to compare with what is scraped: pods that are gone report nothing themselves.
#[derive(Debug)]
pub(super) struct EachHub {
    ready: IntGaugeVec,
    replicas: IntGaugeVec,
    ready_replicas: IntGaugeVec,
    balanced: IntGaugeVec,
    rollout_paused: IntGaugeVec,
    balance_ratio: GaugeVec,
    /// Namespace and name of the Hubs that have series.
    shown: Mutex<HashSet<(String, String)>>,
}

/// The values of the label `ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HubState {
    Ready,
    NotReady,
    Stopped,
}

// === impl EachHub ===

impl EachHub {
    /// Makes the families (those of integers with `gauges(name, help, labels)`) and registers them.
    pub(super) fn new(
        registry: &Registry,
        gauges: impl Fn(&str, &str, &[&str]) -> Result<IntGaugeVec, prometheus::Error>,
    ) -> Result<Self, prometheus::Error> {
        let labels = &["namespace", "hub"];
        let ratio = Opts::new(
            "alkhub_operator_hub_balance_ratio",
            "Connections of a Hub's fullest pod by the mean of those that stay: 1 is even; absent while that is not known.",
        );
        let balance_ratio = GaugeVec::new(ratio, labels)?;
        registry.register(Box::new(balance_ratio.clone()))?;
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
            balanced: gauges(
                "hub_balanced",
                "1 when a Hub's condition Balanced is true, 0 when it is false; absent while that is not known.",
                labels,
            )?,
            rollout_paused: gauges(
                "hub_rollout_paused",
                "1 while a Hub's roll-out is paused for what it did to calls or peers, else 0.",
                labels,
            )?,
            balance_ratio,
            shown: Mutex::default(),
        })
    }

    /// Updates the series. Those of Hubs that are gone are removed; the others never vanish in between, since a scrape
    /// may run at the same time.
    pub(super) fn refresh(&self, hubs: &[Arc<Hub>]) {
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
            // A figure that is not known has no series.
            for family in [
                &self.ready,
                &self.replicas,
                &self.ready_replicas,
                &self.balanced,
                &self.rollout_paused,
            ] {
                drop(family.remove_label_values(labels));
            }
            drop(self.balance_ratio.remove_label_values(labels));
        }
    }

    fn set(&self, labels: &[&str; 2], hub: &Hub) {
        let status = hub.status.as_ref();
        // The status has the schema once the Hub was first applied; it has the image only once a pod was ready.
        let applied = status.is_some_and(|status| status.schema.is_some());
        let replicas = if applied { hub.spec.replicas } else { 0 };
        self.replicas.with_label_values(labels).set(replicas.into());
        let ready = status.map(|status| status.ready_replicas).unwrap_or_default();
        self.ready_replicas.with_label_values(labels).set(ready.into());
        let rollout = status.and_then(|status| status.rollout.as_ref());
        let is_paused = rollout.is_some_and(|rollout| rollout.paused.is_some());
        self.rollout_paused.with_label_values(labels).set(is_paused.into());
        let condition = status.and_then(|status| condition::find(&status.conditions, condition::BALANCED));
        match condition.map(|condition| condition.status.as_str()) {
            Some("True") => self.balanced.with_label_values(labels).set(1),
            Some("False") => self.balanced.with_label_values(labels).set(0),
            Some(_) | None => drop(self.balanced.remove_label_values(labels)),
        }
        match status.and_then(|status| status.balance) {
            Some(balance) => self.balance_ratio.with_label_values(labels).set(balance.ratio),
            None => drop(self.balance_ratio.remove_label_values(labels)),
        }
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
    pub(super) const ALL: [Self; 3] = [Self::Ready, Self::NotReady, Self::Stopped];

    pub(super) fn of(hub: &Hub) -> Self {
        let ready = |status: &HubStatus| condition::is_true(&status.conditions, condition::READY);
        // A Hub that asks for no pods and was refused keeps running: the state of its pods is shown.
        let runs = |status: &HubStatus| status.replicas > 0 || status.ready_replicas > 0;
        if hub.spec.replicas == 0 && !hub.status.as_ref().is_some_and(runs) {
            Self::Stopped
        } else if hub.status.as_ref().is_some_and(ready) {
            Self::Ready
        } else {
            Self::NotReady
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "true",
            Self::NotReady => "false",
            Self::Stopped => "stopped",
        }
    }
}
