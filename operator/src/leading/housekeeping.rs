//! Once a minute, forgets what was kept about objects that are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use tokio::time::Instant;

use crate::context::Context;
use crate::watch::Stores;

/// How often that is done.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// Forgets what belonged to objects that are gone.
pub(super) async fn housekeeping(context: Arc<Context>) {
    let mut tick = tokio::time::interval_at(Instant::now() + HOUSEKEEPING, HOUSEKEEPING);
    loop {
        tick.tick().await;
        let stores = &context.stores;
        let hubs: HashSet<_> = stores.hubs.state().iter().filter_map(|hub| hub.uid()).collect();
        let spokes: HashSet<_> = stores.spokes.state().iter().filter_map(|spoke| spoke.uid()).collect();
        context.declaration_times.retain(|uid| spokes.contains(uid));
        context.polls.retain(|uid| hubs.contains(uid));
        context.auths.retain(|uid| hubs.contains(uid));
        context.steps.retain(|uid| hubs.contains(uid));
        context.foreigners.retain(|uid| hubs.contains(uid));
        context.in_flight.retain(|uid| hubs.contains(uid));
        context.count_times.retain(|uid| hubs.contains(uid));
        context
            .failures
            .retain(|uid| spokes.contains(uid) || hubs.contains(uid));
        let children = children(stores);
        context.applied.retain(|uid| children.contains(uid));
    }
}

fn children(stores: &Stores) -> HashSet<String> {
    let mut uids = HashSet::new();
    uids.extend(stores.replica_sets.state().iter().filter_map(|object| object.uid()));
    uids.extend(stores.sets.state().iter().filter_map(|object| object.uid()));
    uids.extend(stores.services.state().iter().filter_map(|object| object.uid()));
    uids.extend(stores.configs.state().iter().filter_map(|object| object.uid()));
    uids.extend(stores.accounts.state().iter().filter_map(|object| object.uid()));
    uids.extend(stores.disruptions.state().iter().filter_map(|object| object.uid()));
    uids
}
