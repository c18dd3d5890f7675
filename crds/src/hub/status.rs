//! What the operator says of a Hub.

#![expect(
    unreachable_pub,
    reason = "the derive KubeSchema repeats each struct inside a function"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AutoscalingStatus;
use crate::Condition;

/// What is known of the Hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The generation of the spec that was carried out last. While the Hub is refused (`Accepted` is False), what was
    /// changed since is not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_generation: Option<i64>,
    /// The operator that keeps this Hub, as `namespace/lease` of its install. Others leave the Hub and its Spokes alone.
    /// Write another here to hand the Hub over; empty it and the next that looks takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Pods that `selector` selects; the scale subresource reads it.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Selects the pods that are there to stay, of every revision; the scale subresource reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The revision that the pods shall run: what they carry as the label `alkhub.dev/revision`. ControllerRevision and
    /// ReplicaSet are named `{hub}-{revision}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Where the operator's autoscaler stands; absent without `spec.autoscaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingStatus>,
    /// How far the roll-out of `revision` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// `ready/wanted`, for the printer column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<String>,
    /// Image that hub pods last became ready with: what a Hub that names neither `image` nor `version` keeps. A new one
    /// is written here when the first of its pods is ready, so that one that never works is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Image that the managed Redis became ready with, kept until this field is emptied: its data are of that version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_image: Option<String>,
    /// Image that the managed Postgres became ready with, kept until this field is emptied: its data are of that
    /// version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_image: Option<String>,
    /// Version that the hub reports, or the image's tag until one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The channel prefix in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_prefix: Option<String>,
    /// `host:port` of the Redis in which the prefix is this Hub's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_address: Option<String>,
    /// The schema in Postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Where clients and spokes connect inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How the connections are spread over the pods that stay; absent while that is not known. Brought up to date every 15 s
    /// at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<HubBalance>,
    /// The value of the annotation `alkhub.dev/rebalance` that the hubs were last told: `balance` and `hubPods` show
    /// what was seen after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance_order: Option<String>,
    /// The pods that are there, by name. What they hold is brought up to date every 15 s at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub hub_pods: Vec<HubPod>,
    /// Spokes with a connected instance; brought up to date every 15 s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spokes: Option<i64>,
    /// Accepted, AutoscalingConflict, Balanced, Degraded, KeysValid, Paused, PrefixConflict, Progressing, Ready, SecretsCurrent, TemplateCurrent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

/// How far a roll-out is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The revision that all pods last had: a roll-out that goes back to it is never paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_revision: Option<String>,
    /// Why it is paused; absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<PausedRollout>,
}

/// A roll-out that is paused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PausedRollout {
    /// The revision that is rolled out.
    pub revision: String,
    /// What was seen.
    pub message: String,
    /// Since when.
    pub since: Time,
}

/// How the connections of a Hub are spread. Those of pods that drain count in `total` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubBalance {
    /// Open WebSockets of all pods.
    pub total: i64,
    /// `total` for each pod that stays.
    pub mean: f64,
    /// Those of the fullest pod that stays.
    pub max: i64,
    /// `max` by `mean`: 1 is even. It says little where there are few connections.
    pub ratio: f64,
}

/// One pod of a Hub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubPod {
    /// Its name.
    pub name: String,
    /// The revision that it is of.
    #[serde(default)]
    pub revision: String,
    /// Whether it is ready.
    #[serde(default)]
    pub ready: bool,
    /// Whether it gives its connections away: it is to go, or is about to end.
    #[serde(default)]
    pub draining: bool,
    /// Open WebSockets; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<i64>,
    /// Calls that run on it, those of other pods' callers included; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<i64>,
    /// Sessions on it whose connection is lost and whose peer may come back; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnecting: Option<i64>,
    /// The value of the pod's annotation `alkhub.dev/drain`, once what is said of the pod was seen after that was
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_order: Option<String>,
}
