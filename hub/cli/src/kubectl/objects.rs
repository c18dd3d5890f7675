//! What is read from Kubernetes' objects: the fields that are shown; everything else is ignored.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use alkhub_protocol::admin::BalanceReport;
use alkhub_protocol::kubernetes::{COMPONENT, HUB, INSTANCE, MANAGED_BY};
use serde::{Deserialize, Serialize};

use super::process::Kubectl;
use crate::failure::Failure;

/// How `kubectl` is asked for Hubs, to get those of no other group.
pub(crate) const HUBS: &str = "hubs.alkhub.dev";

/// Conditions that are good when they are false; all others are good when they are true.
const GOOD_WHEN_FALSE: [&str; 4] = ["AutoscalingConflict", "Degraded", "Paused", "PrefixConflict"];

/// Reasons for which a roll-out, or its absence, is as it should be.
const GOOD_PROGRESS: [&str; 2] = ["RollingOut", "Stable"];

#[derive(Debug, Deserialize)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ObjectMetadata {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) namespace: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HubObject {
    pub(crate) metadata: ObjectMetadata,
    #[serde(default)]
    pub(crate) status: HubObjectStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HubObjectStatus {
    pub(crate) pods: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) url: Option<String>,
    pub(crate) spokes: Option<u64>,
    pub(crate) balance: Option<BalanceReport>,
    /// The order to rebalance that the figures answer.
    pub(crate) rebalance_order: Option<String>,
    pub(crate) hub_pods: Vec<PodStatus>,
    pub(crate) conditions: Vec<HubCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) name: String,
    pub(crate) revision: String,
    pub(crate) ready: bool,
    pub(crate) draining: bool,
    pub(crate) connections: Option<u64>,
    pub(crate) in_flight: Option<u64>,
    pub(crate) reconnecting: Option<u64>,
    /// The order to drain that the figures answer.
    #[serde(skip_serializing)]
    pub(crate) drain_order: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HubCondition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) message: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PodObject {
    pub(crate) metadata: ObjectMetadata,
}

// === impl HubObject ===

impl HubObject {
    /// # Errors
    /// As for [`Kubectl::get`].
    pub(crate) async fn read(kubectl: &Kubectl, name: &str) -> Result<Self, Failure> {
        kubectl.get(&[HUBS, name]).await
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<&HubCondition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// How evenly connections are spread, in a few words.
pub(crate) fn spread(balance: &BalanceReport) -> String {
    let BalanceReport {
        total,
        mean,
        max,
        ratio,
    } = balance;
    format!("{total} connections, {mean} a pod, {max} on the fullest ({ratio} of the mean)")
}

// === impl HubCondition ===

impl HubCondition {
    /// Whether it deserves a look.
    pub(crate) fn is_trouble(&self) -> bool {
        if self.kind == "Progressing" {
            return !GOOD_PROGRESS.contains(&self.reason.as_str());
        }
        let is_good_when_false = GOOD_WHEN_FALSE.contains(&self.kind.as_str());
        self.status != if is_good_when_false { "False" } else { "True" }
    }
}

// === impl PodStatus ===

impl PodStatus {
    /// Whether it is known to hold nothing.
    pub(crate) fn is_empty(&self) -> bool {
        let nothing = Some(0);
        self.connections == nothing && self.in_flight == nothing && self.reconnecting == nothing
    }

    pub(crate) fn state(&self) -> &'static str {
        match (self.ready, self.draining) {
            (_, true) => "draining",
            (true, false) => "up",
            (false, false) => "not ready",
        }
    }
}

/// What it holds.
impl Display for PodStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let number =
            |held: Option<u64>| held.map_or_else(|| "an unknown number of".to_owned(), |held| held.to_string());
        let (connections, calls) = (number(self.connections), number(self.in_flight));
        write!(f, "{connections} connections, {calls} calls")?;
        match self.reconnecting {
            None | Some(0) => Ok(()),
            Some(sessions) => write!(f, ", {sessions} sessions that may come back"),
        }
    }
}

// === impl PodObject ===

impl PodObject {
    /// The Hub that it is a pod of; `None`: it is something else.
    pub(crate) fn hub(&self) -> Option<&str> {
        let labels = &self.metadata.labels;
        let has = |(label, value): (&str, &str)| labels.get(label).is_some_and(|found| found == value);
        let hub = labels
            .get(INSTANCE)
            .filter(|_| has((COMPONENT, HUB)) && has(MANAGED_BY))?;
        Some(hub)
    }
}

/// The selector of a Hub's pods.
pub(crate) fn selector(hub: &str) -> String {
    let (manager, operator) = MANAGED_BY;
    format!("{INSTANCE}={hub},{COMPONENT}={HUB},{manager}={operator}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_known_to_be_empty_is() {
        let pod = |connections, in_flight, reconnecting| PodStatus {
            connections,
            in_flight,
            reconnecting,
            ..PodStatus::default()
        };
        assert!(pod(Some(0), Some(0), Some(0)).is_empty());
        for held in [
            pod(Some(1), Some(0), Some(0)),
            pod(Some(0), Some(1), Some(0)),
            pod(Some(0), Some(0), Some(1)),
            pod(None, None, None),
            pod(Some(0), None, Some(0)),
        ] {
            assert!(!held.is_empty(), "{held}");
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_no_trouble() {
        for (kind, status, reason, trouble) in [
            ("Ready", "True", "Serving", false),
            ("Ready", "Unknown", "", true),
            ("Degraded", "False", "Healthy", false),
            ("Degraded", "True", "RedisDown", true),
            ("Progressing", "True", "RollingOut", false),
            ("Progressing", "False", "Stable", false),
            ("Progressing", "False", "RolloutPaused", true),
        ] {
            let condition = json!({"type": kind, "status": status, "reason": reason});
            let condition: HubCondition = serde_json::from_value(condition).expect("read");
            assert_eq!(condition.is_trouble(), trouble, "{kind} {status} {reason}");
        }
    }

    #[test]
    fn a_hub_without_a_status_can_be_read() {
        let hub: HubObject = serde_json::from_value(json!({"metadata": {"name": "demo"}, "spec": {}})).expect("read");
        assert!(hub.status.hub_pods.is_empty());
        assert!(hub.condition("Ready").is_none());
    }

    #[test]
    fn the_pod_of_a_hub_is_told_from_other_pods() {
        let pod = |labels| {
            let pod: PodObject =
                serde_json::from_value(json!({"metadata": {"name": "p", "labels": labels}})).expect("read");
            pod.hub().map(str::to_owned)
        };
        let managed = |component| {
            json!({"app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": component,
                "app.kubernetes.io/managed-by": "alkhub-operator"})
        };
        assert_eq!(pod(managed("hub")), Some("demo".to_owned()));
        assert_eq!(pod(managed("redis")), None);
        assert_eq!(pod(json!({"app.kubernetes.io/instance": "demo"})), None);
        assert_eq!(pod(json!({})), None);
    }
}
