//! What the metrics show of each Hub.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_crds::{Hub, HubStatus, condition};
use kube::ResourceExt as _;
use parking_lot::Mutex;
use prometheus::IntGaugeVec;

/// One series for each Hub: what alerts compare with what is scraped, for pods that are gone say nothing themselves.
#[derive(Debug)]
pub(super) struct EachHub {
    ready: IntGaugeVec,
    replicas: IntGaugeVec,
    ready_replicas: IntGaugeVec,
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
    /// Makes the families with `gauges(name, help, labels)`.
    pub(super) fn new<E>(gauges: impl Fn(&str, &str, &[&str]) -> Result<IntGaugeVec, E>) -> Result<Self, E> {
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
    pub(super) const ALL: [Self; 3] = [Self::Ready, Self::NotReady, Self::Stopped];

    pub(super) fn of(hub: &Hub) -> Self {
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

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "true",
            Self::NotReady => "false",
            Self::Stopped => "stopped",
        }
    }
}
