//! Keeps the directory in step with the change feed.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_hub_cluster::{Cluster, DirectoryChange, DirectoryEntry, Fence};
use alkhub_protocol::{HubId, InstanceId, SpokeName};
use tokio_util::sync::CancellationToken;

use crate::departure::Departures;
use crate::directory::{ChangeResult, Directory, Instance};
use crate::specs::SpecKeeper;

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

    /// Applies one change.
    fn changed(&self, change: DirectoryChange) {
        match change {
            DirectoryChange::Snapshot(entries) => self.reset(entries),
            DirectoryChange::Put(entry) => self.put(entry),
            DirectoryChange::Remove {
                spoke,
                instance,
                generation,
                hub,
            } => self.removed(&(spoke, instance), Fence { generation, hub: &hub }),
            DirectoryChange::HubGone(hub) if hub != self.hub => self.departures.hub_gone(&hub),
            DirectoryChange::HubGone(_) => {}
        }
        self.departures.count_instances();
        self.specs.look();
    }

    fn put(&self, entry: DirectoryEntry) {
        // What this hub holds it put itself, when the connection was there; an echo of it may be late.
        if entry.hub == self.hub {
            return;
        }
        if let ChangeResult::Put(Some(old)) = self.directory.put(&Arc::new(Instance::new(entry, None))) {
            self.departures.replaced(&old);
        }
    }

    fn removed(&self, key: &(SpokeName, InstanceId), fence: Fence<'_>) {
        if let Some(instance) = self.directory.remove(key, fence) {
            self.departures.replaced(&instance);
        }
    }

    fn reset(&self, entries: Vec<DirectoryEntry>) {
        let kept: HashSet<_> = entries.iter().map(|e| (e.spoke.clone(), e.instance.clone())).collect();
        for instance in self.directory.instances() {
            if instance.session.is_none() && !kept.contains(&instance.key()) {
                self.directory.remove(&instance.key(), instance.entry.fence());
            }
        }
        entries.into_iter().for_each(|entry| self.put(entry));
        self.departures.look_for_gone();
    }
}
