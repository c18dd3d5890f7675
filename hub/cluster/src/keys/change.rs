//! News about keys, and how it is encoded on its channel.

use serde::{Deserialize, Serialize};

/// News about keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyChange {
    /// The keys with these ids are void.
    Revoked(Vec<String>),
    /// News may have been missed: every cached key has to be looked up again.
    Recheck,
}

/// A change as it stands on the channel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyMessage {
    pub(super) node: String,
    pub(super) change: KeyChange,
}
