//! The PodDisruptionBudget: a drain of nodes takes one hub pod at a time.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;

use crate::hub::validate::Plan;
use crate::names::Part;

/// None for a single pod: it would only keep a node from being drained.
pub(super) fn build(plan: &Plan) -> Option<PodDisruptionBudget> {
    (plan.replicas > 1).then(|| {
        super::object(json!({
            "metadata": plan.names.meta(plan.names.main(), Part::Hub),
            "spec": {
                "maxUnavailable": 1,
                "selector": { "matchLabels": plan.names.selector(Part::Hub) },
                // A pod that is not ready serves nobody: it must not keep a node from being drained.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            }
        }))
    })
}
