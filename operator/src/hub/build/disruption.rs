//! The PodDisruptionBudget: a drain of nodes takes one hub pod at a time.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;

use crate::error::Error;
use crate::hub::validate::Plan;
use crate::names::Part;

/// None for a single pod: there it would only block the drain of a node.
pub(super) fn build(plan: &Plan) -> Result<Option<PodDisruptionBudget>, Error> {
    if plan.replicas <= 1 {
        return Ok(None);
    }
    let budget = json!({
        "metadata": plan.names.meta(plan.names.main(), Part::Hub),
        "spec": {
            "maxUnavailable": 1,
            "selector": { "matchLabels": plan.names.selector(Part::Hub) },
            // A pod that is not ready serves nobody and must not block the drain of a node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        }
    });
    super::object("PodDisruptionBudget", budget).map(Some)
}
