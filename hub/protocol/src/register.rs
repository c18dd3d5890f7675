//! `hub.register`: how a connection becomes an instance of a spoke.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::text::texts;
use crate::{HubId, InstanceId, RawJson, SpokeName};

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
    /// What it offers: OperationSpecs, each accepted or refused on its own.
    #[serde(default, deserialize_with = "operations")]
    pub operations: Vec<RawJson>,
}

/// Entries that a registration may have; how many of them an instance may offer is a setting of the hub.
pub const OPERATIONS_LIMIT: usize = 10_000;

/// Reads entries up to the limit: what is over it is refused before it takes memory.
fn operations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RawJson>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<RawJson>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of OperationSpecs")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut read = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if read.len() == OPERATIONS_LIMIT {
                    let message = format!("`operations` has more than {OPERATIONS_LIMIT} entries");
                    return Err(A::Error::custom(message));
                }
                read.push(entry);
            }
            Ok(read)
        }
    }
    deserializer.deserialize_seq(Entries)
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
    /// One entry for each operation, in the order given.
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
