//! The kind Spoke: a program that may dial in to a Hub, the key that it does so with, and what it may do.

#![expect(
    unreachable_pub,
    reason = "the derive KubeSchema repeats each struct inside a function"
)]

use std::collections::BTreeMap;

use alkhub_protocol::scope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// What the spoke may do and which Hub it belongs to.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "alkhub.dev",
    version = "v1alpha1",
    kind = "Spoke",
    namespaced,
    status = "SpokeStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "spk",
    category = "alkhub",
    doc = "A Spoke is a program that dials in to a Hub and offers operations. The operator mints its key into a Secret, declares it at the Hub, and shows here whether it is connected.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "How far the spoke has come."),
    printcolumn(name = "Hub", type_ = "string", json_path = ".spec.hubRef.name", description = "The Hub it belongs to."),
    printcolumn(name = "Pod", type_ = "string", json_path = ".status.pod", description = "The hub pod that holds its newest connection."),
    printcolumn(name = "Operations", type_ = "integer", json_path = ".status.operations", description = "Operations that it offers now."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since it was made."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", priority = 1, description = "Whether it may connect."),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("a Spoke's name is 1 to 63 lower-case letters, digits and `-`, with no `-` at either end and no dot")
        .field_path(".metadata.name"),
)]
#[serde(rename_all = "camelCase")]
pub struct SpokeSpec {
    /// The Hub that the spoke connects to, in the same namespace. It cannot be changed: make another Spoke instead.
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("hubRef cannot be changed: make another Spoke and delete this one")
            .field_path(".name")
    )]
    pub hub_ref: HubRef,
    /// Kind of program, for people and for filters: `dev-env` (a developer's machine), `client` (mostly calls) or
    /// `compute` (a runner).
    #[serde(default)]
    pub spoke_type: SpokeType,
    /// What the spoke's key may do besides offering operations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(description = scopes(), length(max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(
        validation = Rule::new("self.all(scope, scope != 'admin')")
            .message("a Spoke's key cannot hold the scope `admin`")
            .reason(Reason::FieldValueForbidden)
    )]
    pub scopes: Vec<String>,
    /// Operations that it may offer: `namespace.operation` or `namespace.*`. Empty means every operation in the
    /// namespace of its own name. The namespace `hub` is the hub's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(
            length(max = 128),
            regex(pattern = r"^[A-Za-z][A-Za-z0-9_-]*\.([A-Za-z][A-Za-z0-9_-]*|\*)$")
        )
    )]
    #[x_kube(
        validation = Rule::new("self.all(operation, !operation.startsWith('hub.'))")
            .message("the namespace `hub` is reserved")
            .reason(Reason::FieldValueForbidden)
    )]
    pub operations: Vec<String>,
    /// Calls that one running instance takes at once, at most. Unset: no limit of the hub's; the instance may name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: Option<u32>,
    /// Free labels that `alkhub spokes` shows and filters by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), schema_with = "labels")]
    pub labels: BTreeMap<String, String>,
    /// Where the key goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// A suspended spoke keeps its key and is refused at the door; a connection that is open is closed.
    #[serde(default)]
    pub suspended: bool,
}

/// A Hub in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubRef {
    /// The Hub's name.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
}

/// The kinds of spoke, as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SpokeType {
    /// A developer's machine.
    #[default]
    DevEnv,
    /// A program that mostly calls.
    Client,
    /// A runner.
    Compute,
}

/// Where the operator writes the spoke's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Name of the Secret, made and owned by the operator; default `{spoke}-key`. It holds the key as `token` and
    /// `ALKHUB_TOKEN` and the Hub's address as `url` and `ALKHUB_URL`, so that `envFrom` needs nothing more. Deleting
    /// the Secret makes a new key and ends the old one. With another name the key goes into another Secret, as a new
    /// one, and the Secret of before is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub secret_name: Option<String>,
    /// Seconds for which an old key still works once a new one was made, so that programs can be restarted one by one;
    /// default 0: it ends at once. A key that has leaked wants 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub overlap_seconds: Option<u32>,
}

/// What is known of the spoke; written when something changed, never for a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpokeStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far the spoke has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<SpokePhase>,
    /// The hub pod that holds its newest connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Instances that are connected or reconnecting now; a program with two sessions counts as two.
    #[serde(default)]
    pub instances: i32,
    /// Operations that it offers now.
    #[serde(default)]
    pub operations: i32,
    /// When the first of its present instances connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_at: Option<Time>,
    /// When its last instance left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disconnected_at: Option<Time>,
    /// The Secret that holds its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// First characters of its key, as `alkhub keys list` shows them: when the Hub has another key in force, or none, the
    /// key is put there again or made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_hint: Option<String>,
    /// Digest of what was last declared at the Hub; while it is equal nothing is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<String>,
    /// Accepted, Connected, CredentialsIssued, Ready. Ready says that the spoke may connect, whether or not it is connected now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

/// How far a spoke has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SpokePhase {
    /// Its key is not in place yet.
    Pending,
    /// Its key is in the Secret and known to the Hub; it has not connected yet.
    Ready,
    /// At least one instance is connected.
    Connected,
    /// None is connected, and one at least has lost its connection and may come back.
    Reconnecting,
    /// It was connected and is not now.
    Disconnected,
    /// `spec.suspended` is set.
    Suspended,
}

// === impl Spoke ===

impl Spoke {
    /// The name of the Secret that holds the key.
    pub fn secret_name(&self) -> String {
        let own = || format!("{}-key", self.metadata.name.as_deref().unwrap_or_default());
        self.spec
            .credentials
            .as_ref()
            .and_then(|credentials| credentials.secret_name.clone())
            .unwrap_or_else(own)
    }
}

// === impl SpokePhase ===

impl SpokePhase {
    /// All of them, for metrics.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Ready,
        Self::Connected,
        Self::Reconnecting,
        Self::Disconnected,
        Self::Suspended,
    ];

    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Ready => "Ready",
            Self::Connected => "Connected",
            Self::Reconnecting => "Reconnecting",
            Self::Disconnected => "Disconnected",
            Self::Suspended => "Suspended",
        }
    }
}

/// What users read of `scopes`.
fn scopes() -> String {
    format!(
        "What the spoke's key may do besides offering operations: {}, or a scope of your own that an operation requires. \
         `admin` is refused: a spoke's key is handed out.",
        scope::of_a_spokes_key()
    )
}

fn labels(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 256 }
    })
}
