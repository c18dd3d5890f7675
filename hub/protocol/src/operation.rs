//! What a spoke offers: the origin's OperationSpec.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{InvalidId, is_segment};
use crate::text::texts;
use crate::{OperationName, RawJson};

/// Whether an operation reads, changes or streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// Reads only; the hub may send it again.
    Query,
    /// Has effects; sent at most once.
    Mutation,
    /// Answers with any number of items over time.
    Subscription,
}

texts!(OperationKind {
    Query = "query",
    Mutation = "mutation",
    Subscription = "subscription",
});

/// An operation as its spoke describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationSpec {
    /// The part after the dot.
    pub name: String,
    /// The part before the dot.
    pub namespace: String,
    /// Semantic version; kept, not routed by.
    #[serde(default = "default_version")]
    pub version: String,
    /// Query, mutation or subscription.
    #[serde(rename = "type")]
    pub kind: OperationKind,
    /// A short name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does, in a sentence.
    #[serde(default)]
    pub description: String,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// JSON Schema of the input; `true` accepts anything.
    pub input_schema: RawJson,
    /// JSON Schema of the output's `data`, or of each item's.
    pub output_schema: RawJson,
    /// The errors that the operation declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_schemas: Vec<ErrorSpec>,
    /// Who may call it.
    #[serde(default)]
    pub access_control: AccessControl,
    /// Whether a call may be repeated without a second effect; a query always may.
    #[serde(default)]
    pub idempotent: bool,
    /// Anything more, kept as it is.
    #[serde(rename = "_meta", default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<RawJson>,
}

/// One declared error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorSpec {
    /// The code, as `call.error` carries it.
    pub code: String,
    /// When it happens.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of `details`.
    #[serde(default = "RawJson::null")]
    pub schema: RawJson,
    /// The status that an HTTP caller sees (400 to 599).
    #[serde(
        default,
        deserialize_with = "crate::json::whole::optional_small",
        skip_serializing_if = "Option::is_none"
    )]
    pub http_status: Option<u16>,
}

/// Scopes that a caller needs, matched literally.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessControl {
    /// All of these.
    #[serde(default)]
    pub required_scopes: Vec<String>,
    /// And, where any are named, one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_scopes_any: Vec<String>,
    /// The origin's name of a check of the spoke's own: kept and shown, not enforced by the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_auth: Option<RawJson>,
}

/// The total length of all scopes of one [`AccessControl`], in bytes, at most: those of the caller accompany each call.
pub const SCOPES_LIMIT_BYTES: usize = 16 * 1024;

/// One operation in a list: its specification and who offers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationInfo {
    /// `namespace.name`.
    pub operation: OperationName,
    /// As the spoke gave it.
    #[serde(flatten)]
    pub spec: OperationSpec,
    /// The spokes that offer it now.
    pub spokes: Vec<String>,
}

fn default_version() -> String {
    "1.0.0".to_owned()
}

// === impl OperationSpec ===

impl OperationSpec {
    /// `namespace.name`, mapped if the spoke's own name has characters that an operation's name may not have.
    ///
    /// # Errors
    /// The two parts do not make an operation's name.
    pub fn operation(&self) -> Result<OperationName, InvalidId> {
        if !is_segment(&self.namespace) {
            return Err(InvalidId::operation(&self.namespace, &self.name));
        }
        self.spelled().parse()
    }

    /// `namespace.name` as the spoke wrote it: calls are addressed to it in this spelling.
    pub fn spelled(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// Whether the hub may send a call again if it does not know that the first one arrived.
    pub fn may_repeat(&self) -> bool {
        self.idempotent || self.kind == OperationKind::Query
    }
}
