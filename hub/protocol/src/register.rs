//! `hub.register`: how a connection becomes an instance of a spoke; and `hub.register.update`: how the instance changes
//! what it offers.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::text::texts;
use crate::{HubId, InstanceId, OperationName, RawJson, SpokeName};

/// The kinds of spoke, the origin's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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

texts!(SpokeType {
    DevEnv = "dev-env",
    Client = "client",
    Compute = "compute",
});

/// How a spoke describes itself. The origin's `identity` is ignored: identity comes from the key.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterInput {
    /// The spoke; taken from the key when absent, and must agree with it when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SpokeName>,
    /// One running program; without it each connection is an instance of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// Kind of spoke.
    #[serde(default)]
    pub spoke_type: SpokeType,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Operating system and so on, kept as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_info: Option<RawJson>,
    /// Calls that the instance takes at once; unlimited when absent.
    #[serde(
        default,
        deserialize_with = "crate::json::whole::optional_small",
        skip_serializing_if = "Option::is_none"
    )]
    pub concurrency: Option<u32>,
    /// What it offers: OperationSpecs, each accepted or refused on its own. In place of one that the hub may know stands its
    /// hash ([`crate::SpecHash`]), where the hub has granted the feature
    /// [`HASHES`](crate::frame::session::HASHES).
    #[serde(default, deserialize_with = "limited")]
    pub operations: Vec<RawJson>,
}

/// `hub.register.update`: a registered instance offers something more, or no more. All of it takes effect at once, or nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateInput {
    /// What it offers from now on, as in a registration. One of a name that it offers takes that one's place.
    #[serde(default, deserialize_with = "limited", skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<RawJson>,
    /// What it offers no more; a name that it does not offer is passed over.
    #[serde(default, deserialize_with = "limited", skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<OperationName>,
}

/// The `details` of the error for a refused registration, or update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
pub struct RefusedDetails {
    /// Hashes that the hub does not know, or may not use for this spoke: the specifications behind them have to be sent
    /// in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// For an update: the entries of `add` that are rejected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<OperationResult>,
}

/// How many entries a registration may have; how many of them an instance may offer is a setting of the hub.
pub const OPERATIONS_LIMIT: usize = 10_000;

/// Reads entries up to the limit: excess ones are refused before they take memory.
fn limited<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Entries<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut read = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if read.len() == OPERATIONS_LIMIT {
                    let message = format!("a list of operations has more than {OPERATIONS_LIMIT} entries");
                    return Err(A::Error::custom(message));
                }
                read.push(entry);
            }
            Ok(read)
        }
    }
    deserializer.deserialize_seq(Entries(PhantomData))
}

/// The hub's answer, the `data` of the response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterOutput {
    /// The spoke's name.
    pub spoke_id: SpokeName,
    /// The instance.
    pub instance_id: InstanceId,
    /// The fencing number: a record with a lower one is of the past.
    pub generation: u64,
    /// The hub that holds the connection.
    pub hub_id: HubId,
    /// How often the hub pings, in milliseconds.
    pub heartbeat_ms: u64,
    /// Calls that this record takes at once: the least of what it asked for and what its spoke's declaration allows each
    /// instance. Absent when neither limits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Hubs through which it cannot be called yet: they were not heard of within a second. Absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lagging_hubs: Vec<HubId>,
    /// One entry for each operation, in the order given; after an update, for each that was to be added.
    pub operations: Vec<OperationResult>,
}

/// What became of one offered operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationResult {
    /// Its name, as far as it could be read.
    pub name: String,
    /// Registered, pooled or rejected.
    pub result: Registered,
    /// Why it was rejected, and the cure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By this the same specification can be named in place of sending it again. Absent where it was named so; where the hub
    /// does not keep all that was sent; where the answer is long already; and for a peer that has not asked for hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// What the hub accepted but does not do as specified: a keyword that is not checked, a field that
    /// it does not know. Each is a sentence that names the field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The ways a registration of one operation can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Registered {
    /// This instance is its only provider.
    Registered,
    /// Other instances offer the same; calls are spread.
    Pooled,
    /// Refused.
    Rejected,
}
