//! The list of the tunnels that are open on one hub, by which what other hubs say finds the tunnel that it is about.

use std::collections::HashMap;
use std::sync::Arc;

use alkhub_calls::TunnelId;
use alkhub_protocol::HubId;
use parking_lot::Mutex;

use super::Tunnel;

/// The tunnels to other hubs. Clones share one list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tunnels(Arc<Mutex<HashMap<TunnelId, Arc<Tunnel>>>>);

// === impl Tunnels ===

impl Tunnels {
    /// The tunnel to a hub with this number.
    pub(crate) fn get(&self, hub: &HubId, number: u64) -> Option<Arc<Tunnel>> {
        let id = TunnelId {
            hub: hub.clone(),
            number,
        };
        self.0.lock().get(&id).cloned()
    }

    /// All tunnels to a hub.
    pub(crate) fn to(&self, hub: &HubId) -> Vec<Arc<Tunnel>> {
        let tunnels = self.0.lock();
        let to = tunnels.values().filter(|tunnel| tunnel.id.hub == *hub);
        to.cloned().collect()
    }

    /// How many calls run through all of them.
    pub(crate) fn running(&self) -> usize {
        let tunnels = self.0.lock();
        let running = tunnels.values().map(|tunnel| tunnel.running.lock().count());
        running.sum()
    }

    /// Enters one that opens.
    pub(super) fn insert(&self, tunnel: &Arc<Tunnel>) {
        self.0.lock().insert(tunnel.id.clone(), tunnel.clone());
    }

    /// Forgets one whose session lets it go.
    pub(super) fn remove(&self, tunnel: &Tunnel) {
        self.0.lock().remove(&tunnel.id);
    }
}
