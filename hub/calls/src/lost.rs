//! What happens to calls whose spoke, or whose hub, goes away.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_hub_cluster::Fence;
use alkhub_protocol::HubId;

use crate::call::{Origin, To};
use crate::core::Core;
use crate::link::Link;
use crate::sink::End;

/// Close code for a connection whose instance has registered over another one.
pub(crate) const CLOSE_REPLACED: u16 = 4409;

impl Core {
    /// Ends a connection's registration: its calls fail at once, or go elsewhere where they surely never left.
    ///
    /// Answers false when it had ended before.
    pub(crate) fn lose(&self, link: &Arc<Link>) -> bool {
        let Some(calls) = link.lose() else { return false };
        self.links
            .remove_if(&link.connection.id, |_, registered| Arc::ptr_eq(registered, link));
        self.forget(link);
        let last_sent = link.connection.outbox.seal();
        for key in calls {
            let Some(call) = self.pending.get(key) else { continue };
            let unsent = match &call.leg.lock().to {
                To::Spoke { instance, number } if instance.is_on(link) => {
                    Some(Arc::clone(instance)).filter(|_| *number > last_sent)
                }
                // Ended, or on its way to another instance.
                _ => continue,
            };
            match unsent {
                Some(instance) => self.reroute(&call, &instance),
                None => self.end(key, End::Failed(self.spoke_lost(&call, &link.spoke)), None),
            }
        }
        true
    }

    /// Takes the registration of a lost connection out of this hub's directory.
    pub(crate) fn forget(&self, link: &Link) {
        let key = (link.spoke.clone(), link.instance.clone());
        // A registration of this instance over another connection has a higher generation and stays.
        let fence = Fence {
            generation: link.generation(),
            hub: &self.hub,
        };
        self.directory.remove(&key, fence);
        if link.generation() > 0 && !self.directory.has_instances_of(&link.spoke) {
            self.presence.left(&link.spoke);
        }
        self.count_instances();
    }

    /// Closes a connection whose instance has registered with a higher generation, here or elsewhere.
    pub(crate) fn fence(&self, link: &Arc<Link>) {
        if self.lose(link) {
            tracing::info!(spoke.id = %link.spoke, instance.id = %link.instance, "a newer connection of the instance has taken its place");
            link.connection
                .outbox
                .close(CLOSE_REPLACED, "a newer connection of this instance has registered");
        }
    }

    /// Ends everything that had to do with another hub.
    pub(crate) fn hub_gone(&self, hub: &HubId) {
        let removed = self.directory.remove_hub(hub);
        self.relay.late.forget(hub);
        self.count_instances();
        let sent_there = self.pending.select(|call| match &call.leg.lock().to {
            To::Hub { instance } => instance.entry.hub == *hub,
            To::Nobody | To::Spoke { .. } | To::Ended => false,
        });
        let came_from_there = self
            .pending
            .select(|call| matches!(&call.origin, Origin::Hub { hub: origin, .. } if origin == hub));
        tracing::info!(hub.id = %hub, instances = removed, calls = sent_there.len(), "another hub is gone");
        for call in sent_there {
            let instance = call.leg.lock().to.instance().cloned();
            if let Some(instance) = instance {
                self.end(
                    call.key,
                    End::Failed(self.spoke_lost(&call, &instance.entry.spoke)),
                    None,
                );
            }
        }
        for call in came_from_there {
            self.end(call.key, End::Silent, Some("the caller's hub is gone"));
        }
    }

    /// Looks for hubs that are gone and whose news was missed: a snapshot of the directory took its place.
    ///
    /// Redis may have lost what it knew, and then hubs that live need time to come back: who is away now and still
    /// is a whole lease later is gone.
    pub(crate) fn look_for_gone(self: &Arc<Self>) {
        let away = self.away();
        if away.is_empty() {
            return;
        }
        let core = Arc::clone(self);
        self.tasks.spawn(async move {
            let waited = tokio::time::sleep(core.lease_ttl);
            if core.stop.run_until_cancelled(waited).await.is_some() {
                let still = core.away();
                away.intersection(&still).for_each(|hub| core.hub_gone(hub));
            }
        });
    }

    /// Hubs that calls go to or come from, and that have neither a lease nor an instance.
    fn away(&self) -> HashSet<HubId> {
        let concerned = self.pending.select(|call| call.other_hub().is_some());
        let mut away: HashSet<HubId> = concerned.iter().filter_map(|call| call.other_hub()).collect();
        for pod in self.cluster.pods().iter() {
            away.remove(&pod.hub_id);
        }
        if !away.is_empty() {
            for instance in self.directory.instances() {
                away.remove(&instance.entry.hub);
            }
        }
        away
    }

    /// Brings the gauges up to date.
    pub(crate) fn count_instances(&self) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.instances_known.set(count(self.directory.len()));
        self.metrics.spokes_connected.set(count(self.links.len()));
    }
}
