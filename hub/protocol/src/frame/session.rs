//! What the two ends of a connection tell each other about their session: `__hello`, `__welcome`, `__resume`, `__ack`,
//! `__hubs`, `hub.migrate`.
//!
//! Invariants
//! - Whether a message counts, for those who count what they send and receive, depends on its type alone ([`counts`]):
//!   both ends agree on it, whatever else is wrong with the message.

use serde::{Deserialize, Serialize};

use super::kind;

/// The feature of a peer that counts messages, and can come back to its session over another connection.
pub const RESUME: &str = "resume";

/// The feature of a peer that wants to receive `__ping`s: scripts of web pages do not see those of the WebSocket.
pub const PING: &str = "ping";

/// The feature of a peer that moves its session to a connection to another hub when asked to ([`Migrate`]).
pub const MIGRATE: &str = "migrate";

/// The feature of a peer that wants to know how many hubs take connections: a `__hubs` follows the `__welcome`, and
/// another one each change of the number.
pub const HUBS: &str = "hubs";

/// The feature of a peer that names specifications by their hash ([`crate::SpecHash`]) if the hub may know them: the
/// answers to its registrations say which it does. A hub that grants it also knows `hub.register.update`.
pub const HASHES: &str = "hashes";

/// `__hello`: a peer that wants more than a plain one gets begins with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
pub struct Hello {
    /// Subprotocols that the peer speaks; none named means `alk.v1.json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<String>,
    /// What the peer can do ([`RESUME`], [`PING`], [`MIGRATE`], [`HUBS`], [`HASHES`]); the hub ignores unknown ones.
    #[serde(default)]
    pub features: Vec<String>,
    /// The session that the peer comes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumeRequest>,
}

/// Which session a peer comes back to, and how much of it the peer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
pub struct ResumeRequest {
    /// The id from the `__welcome`.
    pub session_id: String,
    /// How many messages of the session, of those that count, the peer has received.
    pub received: u64,
}

/// `__welcome`: what the hub grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
pub struct Welcome {
    /// The id with which the peer comes back; empty if it cannot. Whoever has it together with the key can take the
    /// session over, so it must not be logged.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session_id: String,
    /// The process that answers.
    pub hub_id: String,
    /// How often the hub asks for a sign of life, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a session waits for its peer, in milliseconds; 0 if it does not.
    #[serde(default)]
    pub resume_ms: u64,
    /// How many calls the key may have under way on this hub at once.
    #[serde(default)]
    pub max_inflight: u64,
    /// Those of the peer's features that apply from now on.
    #[serde(default)]
    pub features: Vec<String>,
}

/// `hub.migrate`: a hub asks a peer to move its session to a new connection, to another hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
pub struct Migrate {
    /// How long the connection stays as it is, in milliseconds; after that the hub may close it.
    pub deadline_ms: u64,
    /// Whether the session can be resumed there.
    pub resume: bool,
    /// The address to dial instead of the peer's usual one, as a hub's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// The payload of `__hubs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub(super) struct Hubs {
    /// Those that take connections.
    pub(super) count: u32,
}

/// The payload of `__ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub(super) struct Ack {
    /// Messages received since the session began.
    pub(super) count: u64,
}

/// `__resume`: a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct Resume {
    /// Messages of the peer that the hub has received since the session began.
    pub received: u64,
    /// The generation of the session's registration on this hub; absent if it has none, and from hubs that do not
    /// report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

// === impl Hello ===

impl Hello {
    /// Whether the peer names a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|named| named == feature)
    }
}

// === impl Welcome ===

impl Welcome {
    /// Whether the hub grants a feature.
    pub fn grants(&self, feature: &str) -> bool {
        self.features.iter().any(|granted| granted == feature)
    }
}

/// Whether a message of this type counts in a session: all do, except those with which the two ends maintain the
/// session itself.
pub fn counts(kind: &str) -> bool {
    !matches!(
        kind,
        kind::HELLO | kind::WELCOME | kind::RESUME | kind::ACK | kind::HUBS | kind::PING | kind::PONG | kind::MIGRATE
    )
}
