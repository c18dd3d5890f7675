//! News about keys, and how it is encoded on its channel.

use std::collections::BTreeSet;

use alkhub_protocol::SpokeName;
use serde::{Deserialize, Serialize};

/// News about keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyChange {
    /// The keys with these ids are void.
    Revoked(Vec<String>),
    /// The keys of these spokes may do more or less: they have to be looked up again. A hub that does not know this news
    /// takes it for [`KeyChange::Recheck`], as it takes all that it cannot read.
    RecheckSpokes(BTreeSet<SpokeName>),
    /// News may have been missed: every cached key has to be looked up again.
    Recheck,
}

/// A change as it stands on the channel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyMessage {
    pub(super) node: String,
    pub(super) change: KeyChange,
}
