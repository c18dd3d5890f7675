//! Keeps the directory in step with the change feed.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_hub_cluster::{DirectoryChange, DirectoryEntry, Fence};
use alkhub_protocol::{InstanceId, SpokeName};

use crate::core::Core;
use crate::directory::{Instance, Outcome};

impl Core {
    /// Follows the feed until the end.
    pub(crate) async fn follow_directory(self: Arc<Self>) {
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
    pub(crate) fn changed(self: &Arc<Self>, change: DirectoryChange) {
        match change {
            DirectoryChange::Snapshot(entries) => self.reset(entries),
            DirectoryChange::Put(entry) => self.put(entry),
            DirectoryChange::Remove {
                spoke,
                instance,
                generation,
                hub,
            } => self.removed(&(spoke, instance), Fence { generation, hub: &hub }),
            DirectoryChange::HubGone(hub) if hub != self.hub => self.hub_gone(&hub),
            DirectoryChange::HubGone(_) => {}
        }
        self.count_instances();
        self.spec_store.look();
    }

    fn put(&self, entry: DirectoryEntry) {
        // What this hub holds it put itself, when the connection was there; an echo of it may be late.
        if entry.hub == self.hub {
            return;
        }
        if let Outcome::Put(Some(old)) = self.directory.put(&Arc::new(Instance::new(entry, None))) {
            self.replaced(&old);
        }
    }

    fn removed(&self, key: &(SpokeName, InstanceId), fence: Fence<'_>) {
        if let Some(instance) = self.directory.remove(key, fence) {
            self.replaced(&instance);
        }
    }

    fn reset(self: &Arc<Self>, entries: Vec<DirectoryEntry>) {
        let kept: HashSet<_> = entries.iter().map(|e| (e.spoke.clone(), e.instance.clone())).collect();
        for instance in self.directory.instances() {
            if instance.link.is_none() && !kept.contains(&instance.key()) {
                self.directory.remove(&instance.key(), instance.entry.fence());
            }
        }
        entries.into_iter().for_each(|entry| self.put(entry));
        self.look_for_gone();
    }

    /// A registration gave way to a newer one: a connection of this hub that it stood for ends.
    pub(crate) fn replaced(&self, old: &Instance) {
        if let Some(link) = &old.link {
            self.fence(link);
        }
    }
}
