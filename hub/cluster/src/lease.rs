//! A lease: what a hub announces about itself to all others.
//!
//! Invariants
//! - Whether a hub drains follows from its lease with the highest turn, in whatever order the leases arrive: the hub
//!   counts its turns ([`Lease::turn`]).

use alkhub_peer::PeerAddress;
use alkhub_protocol::HubId;
use alkhub_protocol::admin::PodReport;
use alkhub_protocol::json::strict;
use serde::{Deserialize, Serialize};

/// The content of a hub's lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Lease {
    /// The name of its pod; empty outside Kubernetes.
    pub pod: String,
    /// The version of its software.
    pub version: String,
    /// Open WebSockets.
    pub connections: u64,
    /// Whether it gives its connections away.
    pub draining: bool,
    /// How often `draining` has changed; the cluster counts. Of two leases of a hub, the one with the higher turn
    /// decides it.
    pub turn: u64,
    /// Its share of connections, in relation to the other hubs.
    pub weight: u32,
    /// The revision of its Hub that it belongs to; empty where nobody counts revisions.
    pub revision: String,
    /// Where other hubs dial it; the cluster fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerAddress>,
}

// === impl Lease ===

impl Lease {
    /// Decodes what Redis has of a hub; `None` for anything else.
    pub(crate) fn read(id: &str, lease: &str) -> Option<(HubId, Self)> {
        Some((id.parse().ok()?, strict::from_str(lease).ok()?))
    }

    /// The hub's report.
    pub(crate) fn report(&self, hub_id: HubId) -> PodReport {
        let Self {
            pod,
            version,
            connections,
            draining,
            turn: _,
            weight: _,
            revision,
            peer: _,
        } = self.clone();
        PodReport {
            hub_id,
            pod,
            version,
            revision,
            connections,
            in_flight: None,
            reconnecting: None,
            last_minute: None,
            draining,
        }
    }
}
