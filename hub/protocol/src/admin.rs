//! The admin API: what the operator and `alkhub keys` send to a hub.
//!
//! An operator and its hubs are upgraded separately, so each can talk to the other across one minor version:
//! - What they send each other may hold fields that the reader does not know; these are ignored. (What people write,
//!   [`KeyCreate`], may not: a misspelt `expiresInSeconds` would make a key that never expires.)
//! - A new field has a default, for writers that do not have it yet. No field is removed or changes its type.
//! - `tests/versions.rs` reads what each released version wrote, and compares it with what is written now.

mod balance;
mod check;
mod declaration;
mod last_minute;
mod readyz;

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::register::SpokeType;
use crate::{HubId, InstanceId, RawJson, Scopes, SpokeName};

pub use balance::{
    BALANCE_FACTOR, BALANCE_SLACK, BalanceReport, DRAIN_SECONDS_LIMIT, DrainPut, REBALANCE_SECONDS, balance_goal,
};
pub use check::InvalidField;
pub use last_minute::{LastMinute, RETURN_LIMIT};
pub use readyz::{PartState, ReadyCheck, ReadyStatus, Readyz};

/// Longest time that a request may name, in seconds: a hundred years.
pub const SECONDS_LIMIT: u64 = 3_155_760_000;

/// A text without control characters.
const ONE_LINE: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

/// Scopes of one key at most.
pub const KEY_SCOPES: usize = 256;

/// Longest name of a key, in characters.
pub const KEY_NAME_LIMIT: usize = 256;

/// Longest uid of a declared spoke, in characters.
pub const UID_LIMIT: usize = 128;

/// Scopes of a declared spoke at most, as in the kind Spoke.
pub const SPOKE_SCOPES: usize = 64;

/// Patterns of operations of a declared spoke at most, and the longest of them, as in the kind Spoke.
pub const SPOKE_OPERATIONS: usize = 256;
/// See [`SPOKE_OPERATIONS`]; in characters.
pub const PATTERN_LIMIT: usize = 128;

/// Labels of a declared spoke at most, and the longest name or value of one, as in the kind Spoke.
pub const SPOKE_LABELS: usize = 32;
/// See [`SPOKE_LABELS`]; in characters.
pub const LABEL_LIMIT: usize = 256;

/// Most calls that one instance of a declared spoke may be allowed at once, as in the kind Spoke.
pub const CONCURRENCY_LIMIT: u32 = 100_000;

/// `PUT /v1/admin/spokes/{name}`: declares a spoke; sending it again changes nothing. Fields that a hub does not know
/// are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = check::what_is_of_a_key_needs_one)]
pub struct SpokePut {
    /// The resource's uid: a spoke of the same name with another uid is another spoke, and takes its place.
    #[schemars(length(min = 1, max = UID_LIMIT), regex(pattern = ONE_LINE))]
    pub uid: String,
    /// The key in the clear; the hub keeps a keyed hash. Absent: the keys stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "alkhub-key"))]
    pub key: Option<String>,
    /// Seconds for which the spoke's earlier keys still work once `key` is a new one; nothing without `key`.
    #[serde(default, deserialize_with = "crate::json::whole::number")]
    #[schemars(range(max = SECONDS_LIMIT))]
    pub overlap_seconds: u64,
    /// When `key` ends by itself; nothing without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub key_expires_at: Option<Timestamp>,
    /// Kind of spoke.
    #[serde(default)]
    pub spoke_type: SpokeType,
    /// Operations that it may offer: `ns.op` or `ns.*`; empty means `{name}.*`.
    #[serde(default)]
    #[schemars(
        length(max = SPOKE_OPERATIONS),
        inner(length(max = PATTERN_LIMIT), regex(pattern = r"^(\*|(?!hub\.)[A-Za-z][A-Za-z0-9_-]*\.(\*|[A-Za-z][A-Za-z0-9_-]*))$"))
    )]
    pub operations: Vec<String>,
    /// What its key may do besides offering; not `admin`.
    #[serde(default)]
    #[schemars(length(max = SPOKE_SCOPES), extend("not" = { "contains": { "const": "admin" } }))]
    pub scopes: Scopes,
    /// Free labels.
    #[serde(default)]
    #[schemars(schema_with = "check::labels_schema")]
    pub labels: BTreeMap<String, String>,
    /// Calls that one instance takes at once, at most.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::json::whole::optional_small"
    )]
    #[schemars(range(min = 1, max = CONCURRENCY_LIMIT))]
    pub concurrency: Option<u32>,
    /// A suspended spoke keeps its key and is refused at the door.
    #[serde(default)]
    pub suspended: bool,
}

/// A declared spoke and what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpokeInfo {
    /// Its name.
    pub name: SpokeName,
    /// The resource's uid; empty for a spoke that no resource declares.
    pub uid: String,
    /// Kind of spoke.
    #[serde(default)]
    pub spoke_type: SpokeType,
    /// Connected or not.
    #[serde(default)]
    pub status: SpokeStatus,
    /// Its running programs.
    #[serde(default)]
    pub instances: Vec<InstanceInfo>,
    /// Operations that it offers now.
    #[serde(default)]
    pub operations: Vec<String>,
    /// Free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When its first instance of now connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub connected_at: Option<Timestamp>,
    /// When its last instance left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub disconnected_at: Option<Timestamp>,
    /// When it was last heard; exact to a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_heartbeat_at: Option<Timestamp>,
    /// Digest of what was declared ([`SpokePut::digest`]); absent when no resource declares it, and from a hub that does
    /// not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declaration_digest: Option<String>,
    /// First characters of the key that was minted for it and is in force; absent when there is none, and for callers
    /// that are no admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_hint: Option<String>,
}

/// The prefix of the uid of a spoke that a person declared with the commands. No resource has such a uid, so none is
/// missed.
pub const BY_HAND: &str = "cli-";

/// Whether a spoke can take calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpokeStatus {
    /// At least one instance is connected.
    Connected,
    /// None is, and one at least is awaited: its connection is lost, and it may come back.
    Reconnecting,
    /// There is no instance.
    #[default]
    Disconnected,
    /// Its resource asks for it.
    Suspended,
    /// Something that a newer hub knows.
    #[serde(other)]
    #[schemars(skip)]
    Other,
}

/// Whether an instance can be spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// It can.
    #[default]
    Connected,
    /// Its connection is lost, and it may come back: what is to be said to it waits.
    Reconnecting,
    /// Something that a newer hub knows.
    #[serde(other)]
    #[schemars(skip)]
    Other,
}

/// One running program of a spoke.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceInfo {
    /// Chosen by the program, or by the hub for it.
    pub instance_id: InstanceId,
    /// The hub that holds its session.
    pub hub_id: HubId,
    /// Whether it can be spoken to.
    #[serde(default)]
    pub state: InstanceState,
    /// Fencing number.
    pub generation: u64,
    /// When it connected.
    #[schemars(with = "String")]
    pub connected_at: Timestamp,
    /// The labels that it registered with; those of its declaration are the spoke's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The host that it reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_info: Option<RawJson>,
}

/// `POST /v1/admin/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = check::scope_spoke_needs_a_spoke)]
pub struct KeyCreate {
    /// What it is for.
    #[schemars(length(min = 1, max = KEY_NAME_LIMIT), regex(pattern = ONE_LINE))]
    pub name: String,
    /// What it may do. `spoke` needs the field `spoke`.
    #[schemars(length(max = KEY_SCOPES))]
    pub scopes: Scopes,
    /// The spoke that it identifies; absent for a client's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoke: Option<SpokeName>,
    /// Seconds until it ends; absent: never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::json::whole::optional"
    )]
    #[schemars(range(min = 1, max = SECONDS_LIMIT))]
    pub expires_in_seconds: Option<u64>,
}

/// The answer to [`KeyCreate`]: the only time that the key is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyCreated {
    /// The key in the clear.
    pub key: String,
    /// What the list shows of it.
    #[serde(flatten)]
    pub info: KeyInfo,
}

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyInfo {
    /// Its id, in logs and call records.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Its first characters.
    pub hint: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The spoke that it identifies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoke: Option<SpokeName>,
    /// When it was made.
    #[schemars(with = "String")]
    pub created_at: Timestamp,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used; exact to a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub revoked_at: Option<Timestamp>,
    /// Whether it was hashed with another secret than the hub's of now (`auth.hash-key-file`): nobody can use it, and
    /// only a new key helps.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dead: bool,
}

/// `GET /v1/admin/hub`: what the operator writes into a Hub's status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubReport {
    /// The hub that answers.
    pub hub_id: HubId,
    /// Its software's version.
    pub version: String,
    /// The channel prefix.
    pub channel_prefix: String,
    /// Every live pod that shares the prefix, this one included.
    #[serde(default)]
    pub pods: Vec<PodReport>,
    /// How the connections are spread over the pods that stay; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceReport>,
    /// Spokes with at least one connected instance.
    #[serde(default)]
    pub spokes_connected: u64,
    /// Spokes of which no instance is connected, and one at least is awaited.
    #[serde(default)]
    pub spokes_reconnecting: u64,
    /// State of the link to Redis: `up`, `down` or `none` (events in process).
    #[serde(default)]
    #[schemars(with = "String")]
    pub redis: PartState,
    /// State of the link to Postgres: `up` or `down`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub postgres: PartState,
    /// Keys that were neither ended nor have expired and that nobody can use, since another secret than the hub's of
    /// now hashed them. Absent while Postgres does not answer, and from a hub that does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_keys: Option<u64>,
}

/// One hub process, from its lease and from what it publishes of itself each second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// The process.
    pub hub_id: HubId,
    /// Its pod's name; empty outside Kubernetes.
    #[serde(default)]
    pub pod: String,
    /// Its software's version.
    #[serde(default)]
    pub version: String,
    /// The revision of the Hub that it is of; empty where nobody counts them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Open WebSockets.
    #[serde(default)]
    pub connections: u64,
    /// Calls that run on it, those of other pods' callers included; absent while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Sessions on it whose connection is lost and whose peer may come back; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnecting: Option<u64>,
    /// How it went there in the last minute; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_minute: Option<LastMinute>,
    /// Whether it gives its connections away: it ends, or was told to.
    #[serde(default)]
    pub draining: bool,
}
