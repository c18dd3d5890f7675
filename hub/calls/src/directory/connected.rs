//! A connected instance of any hub, as it is shown.

use std::sync::Arc;

use alkhub_protocol::admin::{InstanceInfo, InstanceState};
use alkhub_protocol::{OperationName, SpokeName};
use jiff::Timestamp;

use crate::directory::Instance;

/// A connected instance.
#[derive(Clone, Debug)]
pub struct Connected(pub(crate) Arc<Instance>);

// === impl Connected ===

impl Connected {
    /// Its spoke.
    pub fn spoke(&self) -> &SpokeName {
        &self.0.entry.spoke
    }

    /// When it connected.
    pub fn since(&self) -> Timestamp {
        self.0.entry.connected_at
    }

    /// Whether it can be reached.
    pub fn state(&self) -> InstanceState {
        match self.0.is_reconnecting() {
            true => InstanceState::Reconnecting,
            false => InstanceState::Connected,
        }
    }

    /// The information that is shown about it.
    pub fn info(&self) -> InstanceInfo {
        let entry = &self.0.entry;
        InstanceInfo {
            instance_id: entry.instance.clone(),
            hub_id: entry.hub.clone(),
            state: self.state(),
            generation: entry.generation,
            connected_at: entry.connected_at,
            labels: entry.labels.clone(),
            host_info: entry.host_info.clone(),
        }
    }

    /// The operations that it offers.
    pub fn operations(&self) -> impl Iterator<Item = &OperationName> {
        self.0.entry.operations.iter().map(|offer| &offer.name)
    }
}
