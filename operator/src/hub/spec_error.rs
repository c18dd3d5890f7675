//! What only the user can fix; and the channel prefix, which is checked where other Hubs are observed.

use alkhub_config::ChannelPrefix;
use alkhub_crds::{Hub, condition};

use crate::names::ObjectNames;

/// A problem that only the user can fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpecError {
    /// The condition that reports it: `Accepted` becomes false, or `PrefixConflict` true.
    pub(crate) kind: &'static str,
    pub(crate) reason: &'static str,
    /// Names the field and the remedy.
    pub(crate) message: String,
}

/// The channel prefix of a Hub: its own, or the default.
pub(crate) fn prefix_of(hub: &Hub) -> Result<ChannelPrefix, SpecError> {
    let names = ObjectNames::of(hub);
    let prefix = match &hub.spec.channel_prefix {
        Some(text) => text.parse(),
        None => ChannelPrefix::of_hub(&names.namespace, &names.hub),
    };
    prefix.map_err(|error| SpecError::invalid("InvalidPrefix", format!("spec.channelPrefix: {error}")))
}

// === impl SpecError ===

impl SpecError {
    pub(super) fn invalid(reason: &'static str, message: String) -> Self {
        Self {
            kind: condition::ACCEPTED,
            reason,
            message,
        }
    }
}
