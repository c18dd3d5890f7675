//! The kind Hub: identical pods that share Redis and Postgres, and how the operator keeps them.

#![expect(
    unreachable_pub,
    reason = "the derive KubeSchema repeats each struct inside a function"
)]

mod scaling;
mod status;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::scaling::{AutoscalingSpec, AutoscalingStatus, ScalingBehaviour, ScalingRules, ScalingWindow};
pub use self::status::{HubBalance, HubPod, HubStatus, PausedRollout, RolloutStatus};

/// How many hub pods there are, what they run, and what they share.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "alkhub.dev",
    version = "v1alpha1",
    kind = "Hub",
    namespaced,
    status = "HubStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "ahub",
    category = "alkhub",
    doc = "A Hub routes typed operations and events between spokes and clients. The operator runs it as identical pods that share Redis and Postgres, any of which serves any client.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether as many pods serve as were asked for."),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status", description = "Whether the spec is carried out. While it is refused, later changes are not applied."),
    printcolumn(name = "Pods", type_ = "string", json_path = ".status.pods", description = "Ready pods of those wanted."),
    printcolumn(name = "Connections", type_ = "integer", json_path = ".status.balance.total", description = "Open WebSockets; empty while that is not known."),
    printcolumn(name = "Imbalance", type_ = "number", json_path = ".status.balance.ratio", description = "Connections of the fullest pod by the mean: 1 is even."),
    printcolumn(name = "Spokes", type_ = "integer", json_path = ".status.spokes", description = "Spokes with a connected instance."),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "What the hub pods run."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since it was made."),
    printcolumn(name = "Balanced", type_ = "string", json_path = ".status.conditions[?(@.type==\"Balanced\")].status", priority = 1, description = "Whether the connections are spread evenly."),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1, description = "Why it is ready or not."),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("a Hub's name is 1 to 40 lower-case letters, digits and `-`, begins with a letter and does not end with `-`")
        .field_path(".metadata.name"),
    validation = Rule::new("(has(self.spec.channelPrefix) ? self.spec.channelPrefix : '') == (has(oldSelf.spec.channelPrefix) ? oldSelf.spec.channelPrefix : '') || !has(self.status) || !has(self.status.spokes) || self.status.spokes == 0")
        .message("channelPrefix cannot be changed while spokes are connected: they would lose each other")
        .field_path(".spec.channelPrefix"),
)]
#[x_kube(
    validation = Rule::new("!(has(self.image) && has(self.version))")
        .message("give image or version, not both: image names the tag already")
        .field_path(".version")
)]
#[serde(rename_all = "camelCase")]
pub struct HubSpec {
    /// Hub pods. `kubectl scale hub/NAME --replicas=N` and autoscalers write here. 0 stops the Hub and keeps what it
    /// stored.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// Image of the hub, for a registry of your own: `registry.example/alkhub/hub:0.1.0`. Unset: the operator's
    /// default, taken when the Hub is first made and kept until `version` or `image` asks for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Version of the hub: the tag of the operator's default image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub version: Option<String>,
    /// Redis, which carries events and calls between the pods.
    pub redis: Backend,
    /// Postgres, which keeps keys, spokes and call records in a schema of this Hub's own.
    pub postgres: Backend,
    /// Begins every channel and key in Redis; default `alk:{namespace}:{name}:`. Hubs that share a Redis need
    /// prefixes of which none begins another: who has it keeps it, else the older Hub gets it; the other is refused with
    /// the condition PrefixConflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!-~]*:$"))]
    #[x_kube(
        validation = Rule::new("!self.contains('*') && !self.contains('?') && !self.contains('[') && !self.contains(']') && !self.contains('{') && !self.contains('}') && !self.contains('\\\\')")
            .message("a prefix must not hold any of * ? [ ] { } or a backslash")
    )]
    pub channel_prefix: Option<String>,
    /// Any other setting of the hub, by section: `calls: {default-timeout: 10s}`. The operator checks it against the
    /// settings that exist and names an unknown one in the condition Accepted; the reference is docs/generated/config.md.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "settings")]
    pub config: BTreeMap<String, serde_json::Value>,
    /// What the hub's pods get beside what the operator sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
    /// Lets the operator set `replicas` by connections and calls in flight. Leave `replicas` out then, and let no other
    /// autoscaler act on the Hub (`AutoscalingConflict`). 0 replicas stop the Hub all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,
    /// How pods of another revision take the place of those that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSpec>,
    /// The Secret `{hub}-auth`, with the key that hashes all others and the first admin key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,
    /// The Service that clients and spokes connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSpec>,
    /// The operator changes nothing of this Hub and of its Spokes' registrations while this is set; deleting still
    /// works.
    #[serde(default)]
    pub paused: bool,
}

/// How a roll-out goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Pauses a roll-out when the hubs of new pods make calls fail (more than 1 % of at least 100 in the last minute), or when
    /// peers whose connection to a new pod broke are not back within 5 s (more than 1 % of at least 100).
    /// `Progressing=False/RolloutPaused` says why and how to go on. Going back to the revision that all pods last had is never
    /// paused.
    #[serde(default = "yes")]
    pub pause_on_failure: bool,
}

/// The Secret with a Hub's own keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// What becomes of the Secret when the Hub is deleted. `Retain`, the default: it stays, and a Hub of the same name
    /// takes it up again, so that keys in a schema that stays are valid as before; delete it by hand when the schema is
    /// gone. `Delete`: it goes with the Hub, and every key of the schema is dead from then on.
    #[serde(default)]
    pub when_deleted: WhenDeleted,
}

/// What becomes of something when its Hub is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// It stays.
    #[default]
    Retain,
    /// It goes with the Hub.
    Delete,
}

/// A Redis or a Postgres: one that exists, or a single one to try things out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.secretRef) != (has(self.managed) && self.managed)")
        .message("give secretRef, or managed: true, and not both")
        .field_path(".secretRef"),
    validation = Rule::new("!has(self.storage) || (has(self.managed) && self.managed)")
        .message("storage is for managed: true only")
        .field_path(".storage"),
    validation = Rule::new("!has(self.caSecretRef) || has(self.secretRef)")
        .message("caSecretRef goes with secretRef")
        .field_path(".caSecretRef"),
    validation = Rule::new("!(has(self.managed) && self.managed && has(oldSelf.managed) && oldSelf.managed) || (has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || self.storage == oldSelf.storage))")
        .message("storage of a managed server cannot be changed")
        .field_path(".storage")
)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Key of a Secret with the URL: `redis://` or `rediss://`, `postgres://…`. The pods are rolled when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKey>,
    /// Key of a Secret with the authorities (PEM) to trust besides the system's, for `rediss://` and
    /// `sslmode=verify-full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKey>,
    /// Runs one server for this Hub, for trying things out: one pod, no replica, no backup. It goes, its data too,
    /// with the Hub. When this is unset the server goes once the pods run without it; its volume and password stay
    /// until the Hub goes, and are used again when this is set again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<bool>,
    /// Where a managed server keeps its data; default a volume of 1Gi of the default storage class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
}

/// One key of a Secret in the Hub's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it; default `url` for an address and `ca.crt` for authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// Where a managed server keeps its data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!(has(self.ephemeral) && self.ephemeral) || (!has(self.size) && !has(self.storageClassName))")
        .message("an ephemeral store has no size and no storage class")
        .field_path(".ephemeral")
)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume, for example `5Gi`; default `1Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), regex(pattern = r"^[1-9][0-9]*(Mi|Gi|Ti|M|G|T)$"))]
    pub size: Option<String>,
    /// Storage class of the volume; the cluster's default when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Keeps the data in the pod alone: it is gone when the pod is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
}

/// What the hub's pods get beside what the operator sets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels of the pods; those of the operator's win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods; those of the operator's win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    /// CPU and memory of the hub's container; default: requests of 100m and 64Mi, a memory limit of 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Nodes that the pods may run on, by label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Where the pods would like to be or must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How the pods are spread; default: over zones and over nodes, as far as possible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Secrets for the registry of the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Seconds after which Kubernetes kills a pod that was told to end; default: as long as its drain may take
    /// (`server.drain-delay`, `server.drain-timeout`, and 25 s to close what is open). A shorter one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub termination_grace_period_seconds: Option<i64>,
    /// Priority of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// The Service that clients and spokes connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// How it is reached.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Annotations, for example for a cloud's load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub annotations: BTreeMap<String, String>,
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// From inside the cluster.
    #[default]
    ClusterIP,
    /// By a port of each node.
    NodePort,
    /// By a load balancer of the cloud's.
    LoadBalancer,
}

// === impl Backend ===

impl Backend {
    /// Whether the operator runs the server.
    pub fn is_managed(&self) -> bool {
        self.managed == Some(true)
    }
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self { pause_on_failure: true }
    }
}

fn yes() -> bool {
    true
}

fn two() -> i32 {
    2
}

fn texts(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 4096 }
    })
}

/// Sections of settings. A setting is a number, a text, a truth value, or a list of those. Anything nested deeper is
/// not a setting, and could be nested too deeply for anybody to read.
fn settings(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let flat = |items: u32| {
        schemars::json_schema!({
            "x-kubernetes-preserve-unknown-fields": true, "maxProperties": 0, "maxItems": items, "maxLength": 4096
        })
    };
    let mut setting = flat(256);
    setting.insert("items".to_owned(), flat(0).into());
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "object", "maxProperties": 64, "additionalProperties": setting }
    })
}
