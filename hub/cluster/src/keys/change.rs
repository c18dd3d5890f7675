//! News about keys, and its encoding on the channel.

use std::collections::BTreeSet;

use alkhub_protocol::SpokeName;
use serde::{Deserialize, Serialize};

/// News about keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyChange {
    /// The keys with these ids are void.
    Revoked(Vec<String>),
    /// The keys of these spokes may allow more or less than before: they have to be looked up again. A hub that does
    /// not know this kind of news treats it as [`KeyChange::Recheck`], like everything that it cannot decode.
    RecheckSpokes(BTreeSet<SpokeName>),
    /// News may have been missed: every cached key has to be looked up again.
    Recheck,
}

/// A change in the form that it has on the channel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyMessage {
    pub(super) node: String,
    pub(super) change: KeyChange,
}
