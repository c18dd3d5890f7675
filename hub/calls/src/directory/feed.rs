//! Keeps the directory in step with the change feed.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_hub_cluster::{Cluster, DirectoryChange, DirectoryEntry, Fence};
use alkhub_protocol::{HubId, InstanceId, SpokeName};
use tokio_util::sync::CancellationToken;

use crate::directory::specs::SpecKeeper;
use crate::directory::{ChangeResult, Directory, Instance};
use crate::leg::departure::Departures;

/// Follows the change feed.
#[derive(Debug)]
pub(crate) struct DirectoryFollower {
    pub(crate) hub: HubId,
    pub(crate) cluster: Cluster,
    pub(crate) directory: Arc<Directory>,
    pub(crate) departures: Arc<Departures>,
    pub(crate) specs: Arc<SpecKeeper>,
    pub(crate) stop: CancellationToken,
}

// === impl DirectoryFollower ===

impl DirectoryFollower {
    /// Follows the feed until the end.
    pub(crate) async fn run(self) {
        let mut changes = self.cluster.directory();
        loop {
            let change = tokio::select! {
                () = self.stop.cancelled() => return,
                change = changes.recv() => change,
            };
            match change {
                Some(change) => self.changed(change),
                None => return,
            }
        }
    }

    fn changed(&self, change: DirectoryChange) {
        match change {
            DirectoryChange::Snapshot(entries) => self.reset(entries),
            DirectoryChange::Put(entry) => {
                if let Some(came) = self.put(entry) {
                    self.departures.came(Some(&came));
                }
            }
            DirectoryChange::Remove {
                spoke,
                instance,
                generation,
                hub,
            } => self.removed(&(spoke, instance), Fence { generation, hub: &hub }),
            DirectoryChange::HubGone(hub) if hub != self.hub => self.departures.hub_gone(&hub),
            DirectoryChange::HubGone(_) => {}
            DirectoryChange::Mark(mark) => return mark.pass(),
        }
        self.departures.count_instances();
        self.specs.look();
    }

    /// Puts in what another hub holds; returns the instance if it has come, or come back, and can be reached.
    fn put(&self, entry: DirectoryEntry) -> Option<Arc<Instance>> {
        // What this hub holds it put in itself, when the connection was there; an echo of that may be late.
        if entry.hub == self.hub {
            return None;
        }
        let before = self.directory.instance(&entry.spoke, &entry.instance);
        let instance = Arc::new(Instance::elsewhere(entry, before.as_deref()));
        let came = match self.directory.put(&instance) {
            ChangeResult::Put(old) => {
                if let Some(old) = old {
                    self.departures.replaced(&old);
                }
                true
            }
            ChangeResult::Back => true,
            ChangeResult::Stale => false,
        };
        Some(instance).filter(|instance| came && !instance.is_reconnecting())
    }

    fn removed(&self, key: &(SpokeName, InstanceId), fence: Fence<'_>) {
        if let Some(instance) = self.directory.remove(key, fence) {
            self.departures.replaced(&instance);
            self.departures.left(&instance);
        }
    }

    fn reset(&self, entries: Vec<DirectoryEntry>) {
        let kept: HashSet<_> = entries.iter().map(|e| (e.spoke.clone(), e.instance.clone())).collect();
        for instance in self.directory.instances() {
            if instance.session.is_none() && !kept.contains(&instance.key()) {
                let gone = self.directory.remove(&instance.key(), instance.entry.fence());
                gone.iter().for_each(|gone| self.departures.left(gone));
            }
        }
        let came = entries.into_iter().filter_map(|entry| self.put(entry)).count();
        // Once for all of them: each look goes through every call that waits.
        if came > 0 {
            self.departures.came(None);
        }
        self.departures.look_for_gone();
    }
}
