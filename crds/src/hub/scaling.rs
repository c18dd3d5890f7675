//! How many pods a Hub has by itself, and how they are replaced.

#![expect(
    unreachable_pub,
    reason = "the derive KubeSchema repeats each struct inside a function"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bounds and targets by which the operator itself sets `spec.replicas`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.min <= self.max")
        .message("min must not be more than max")
        .field_path(".min"),
    validation = Rule::new("has(self.connectionsPerPod) || has(self.inFlightPerPod)")
        .message("give connectionsPerPod, inFlightPerPod, or both")
        .field_path(".connectionsPerPod")
)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingSpec {
    /// Fewest pods. A Hub that asks for fewer gets these at once; one that asks for 0 stays stopped.
    #[schemars(range(min = 1, max = 100))]
    pub min: i32,
    /// Most pods.
    #[schemars(range(min = 1, max = 100))]
    pub max: i32,
    /// Open WebSockets that one pod should have: there are as many pods as all connections need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_per_pod: Option<i32>,
    /// Calls that should run on one pod at once; one whose caller and spoke are on two pods runs on both. Of two targets the
    /// one that needs more pods decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub in_flight_per_pod: Option<i32>,
    /// How fast it follows the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behaviour: Option<ScalingBehaviour>,
}

/// How fast the number of pods follows the load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingBehaviour {
    /// For more pods; default: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// For fewer pods; default: after 300 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// When the number of pods is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// Seconds for which the load must ask for another number without a break; then it becomes the nearest one that was
    /// asked for in that time. A report of the hubs counts for half a minute: to scale down take a minute at least, or one
    /// that was made before a pod was lost may decide alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub stabilization_window_seconds: Option<i32>,
}

/// Where the operator's autoscaler stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingStatus {
    /// Since when more pods are asked for; absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingWindow>,
    /// Since when fewer pods are asked for; absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingWindow>,
    /// When the load last asked for that; brought up to date every 15 s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<Time>,
    /// When the number of pods was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
}

/// A time in which another number of pods is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingWindow {
    /// Since when.
    pub since: Time,
    /// The number nearest to the one of now that was asked for in it.
    pub replicas: i32,
}
