//! What the two ends of a connection say of their session: `__hello`, `__welcome`, `__resume`, `__ack`, `__hubs`,
//! `hub.migrate`.
//!
//! Invariants
//! - A message counts, for those who count what they send and receive, by its type alone ([`counts`]): both ends agree
//!   on it, whatever else is wrong with the message.

use serde::{Deserialize, Serialize};

use super::kind;

/// The feature of a peer that counts messages, and can come back to its session over another connection.
pub const RESUME: &str = "resume";

/// The feature of a peer that wants to see `__ping`s: the script of a web page sees none of the WebSocket's.
pub const PING: &str = "ping";

/// The feature of a peer that goes on with its session over a connection to another hub when it is asked to ([`Migrate`]).
pub const MIGRATE: &str = "migrate";

/// The feature of a peer that wants to know how many hubs take connections: a `__hubs` follows the `__welcome`, and comes
/// again whenever the number has changed.
pub const HUBS: &str = "hubs";

/// The feature of a peer that names specifications by their hash ([`crate::SpecHash`]) where the hub may know them: the answers
/// to its registrations say which those are. A hub that grants it knows `hub.register.update` too.
pub const HASHES: &str = "hashes";

/// `__hello`: who asks for more than a plain peer gets begins with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
pub struct Hello {
    /// Subprotocols that the peer speaks; none named means `alk.v1.json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<String>,
    /// What the peer can do ([`RESUME`], [`PING`], [`MIGRATE`], [`HUBS`], [`HASHES`]); what the hub does not know is passed over.
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
    /// As the `__welcome` named it.
    pub session_id: String,
    /// Messages of the session that the peer has received, those that count.
    pub received: u64,
}

/// `__welcome`: what the hub grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
pub struct Welcome {
    /// By which the peer comes back; empty where it cannot. Whoever has it and the key can take the session over: it belongs
    /// into no log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session_id: String,
    /// The process that answers.
    pub hub_id: String,
    /// How often the hub asks for a sign of life, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a session waits for its peer, in milliseconds; 0 when it does not.
    #[serde(default)]
    pub resume_ms: u64,
    /// Calls that the key may have under way on this hub at once.
    #[serde(default)]
    pub max_inflight: u64,
    /// Of the features that the peer named, those that count from now on.
    #[serde(default)]
    pub features: Vec<String>,
}

/// `hub.migrate`: a hub asks a peer to go on with its session over a new connection, to another hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
pub struct Migrate {
    /// So long the connection stays as it is, in milliseconds; after that the hub may close it.
    pub deadline_ms: u64,
    /// Whether the session can be gone on with there.
    pub resume: bool,
    /// The address to dial in place of the one that the peer has, as a hub's URL.
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
    /// Of the session's registration, on this hub; absent where it has none, and from hubs that do not say.
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

/// Whether a message of this type counts in a session: every one but those with which the two ends keep the session itself.
pub fn counts(kind: &str) -> bool {
    !matches!(
        kind,
        kind::HELLO | kind::WELCOME | kind::RESUME | kind::ACK | kind::HUBS | kind::PING | kind::PONG | kind::MIGRATE
    )
}
