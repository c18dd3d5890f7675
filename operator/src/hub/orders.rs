//! What hubs are told through the admin API: to give connections away, to keep them, and to even them out.
//!
//! Invariants
//! - What somebody asks for by annotations is passed on whatever else happens to the Hub: none of it belongs to the
//!   spec.
//! - A drain is repeated: once nobody repeats it, it ends. An order to rebalance is passed on once. An order from
//!   before this term counts if the time that it gives is recent; a later one counts whatever the clock of its author.

use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::Hub;
use alkhub_protocol::HubId;
use alkhub_protocol::admin::{DrainPut, REBALANCE_SECONDS};
use alkhub_protocol::kubernetes::{DRAIN_LAPSE, DRAIN_REQUESTED, REBALANCE};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::admin::{self, Door};
use crate::context::Context;
use crate::error::chain;
use crate::gate::Shut;
use crate::hub::door::door;
use crate::hub::fleet;
use crate::hub::steps::Order;
use crate::names::{DRAIN_SINCE, ObjectNames, Part, is_drain_requested};

/// Tells the hubs what somebody asks for by annotations of pods and of the Hub.
pub(crate) async fn pass_on(ctx: &Context, hub: &Hub) {
    let names = ObjectNames::of(hub);
    let pods = ctx.stores.pods_of(&names, Part::Hub);
    ctx.steps
        .keep_asked(&names.uid, pods.iter().filter_map(|pod| order_of(pod)));
    // The step that removes a pod tells the pods that are to go.
    drain(ctx, &names, asked(&pods, false), None).await;
    rebalance(ctx, hub, &names).await;
}

/// Passes on drains that somebody asks for of pods that are to go, while no step tells them: the Hub is paused, or
/// could not be carried out.
pub(crate) async fn stand_in(ctx: &Context, hub: &Hub) {
    let names = ObjectNames::of(hub);
    let pods = ctx.stores.pods_of(&names, Part::Hub);
    drain(ctx, &names, asked(&pods, true), None).await;
}

/// Pods that somebody wants drained, by name and uid: with `is_going`, those that the operator is removing itself,
/// otherwise the others.
fn asked(pods: &[Arc<Pod>], is_going: bool) -> impl Iterator<Item = (&str, &str)> {
    let asked = pods.iter().filter(move |pod| {
        is_drain_requested(pod)
            && pod.annotations().contains_key(DRAIN_SINCE) == is_going
            && pod.metadata.deletion_timestamp.is_none()
    });
    asked.filter_map(|pod| pod.metadata.name.as_deref().zip(pod.metadata.uid.as_deref()))
}

/// What somebody wants of a pod by the annotation that asks for it to be emptied, with the pod's uid.
fn order_of(pod: &Pod) -> Option<(&str, &str)> {
    let order = pod.annotations().get(DRAIN_REQUESTED)?;
    let uid = pod.metadata.uid.as_deref()?;
    is_drain_requested(pod).then_some((uid, order.as_str()))
}

/// Tells the hubs of pods, given by name and uid, to give their connections away: to pods of the revision with this
/// number, or of the newest. A hub that cannot be told drains when it ends.
pub(crate) async fn drain<'a>(
    ctx: &Context,
    names: &ObjectNames,
    pods: impl Iterator<Item = (&'a str, &'a str)>,
    count: Option<i64>,
) {
    let order = DrainPut {
        seconds: DRAIN_LAPSE.as_secs(),
        revision: count.map(|count| count.to_string()),
    };
    for (pod, uid) in pods {
        if let Some((door, hub_id)) = hub_of(ctx, names, pod)
            && ctx.steps.is_to_tell(&names.uid, uid)
        {
            let Ok(pass) = ctx.kubernetes.gate().pass() else {
                return;
            };
            log(names, pod, door.drain(pass, &hub_id, &order).await);
        }
    }
}

/// Tells the hub of a pod to keep its connections again. Returns whether it does: it was told, or drains no more by
/// itself.
///
/// # Errors
/// The operator does not lead any more.
pub(crate) async fn undrain(ctx: &Context, names: &ObjectNames, pod: &fleet::Pod) -> Result<bool, Shut> {
    let is_told = match hub_of(ctx, names, &pod.name) {
        Some((door, hub_id)) => {
            let pass = ctx.kubernetes.gate().pass()?;
            let told = door.undrain(pass, &hub_id).await;
            let is_told = told.is_ok();
            log(names, &pod.name, told);
            is_told
        }
        // After the first report of a term, this is a pod without a hub that could drain.
        None => ctx.polls.good(&names.uid).is_some(),
    };
    Ok(ctx.steps.keeps_connections(&names.uid, &pod.uid, is_told))
}

/// Passes on an order to rebalance.
async fn rebalance(ctx: &Context, hub: &Hub, names: &ObjectNames) {
    let order = hub.annotations().get(REBALANCE).map(String::as_str);
    let is_recent = order.is_some_and(|order| is_recent(order, Timestamp::now()));
    match ctx.steps.order(&names.uid, order, is_recent) {
        Order::New => {}
        Order::Old => {
            tracing::info!(
                hub.namespace = names.namespace,
                hub.name = names.hub,
                order,
                "an order to rebalance from before this operator led is not passed on: its time is not of the last ten minutes"
            );
            return ctx.steps.keep_order(&names.uid, order);
        }
        // That there was no order is noted once; one that was passed on stays known after its annotation is removed.
        Order::Done if order.is_none() => return ctx.steps.keep_no_order(&names.uid),
        Order::Done => return,
    }
    let Some(door) = open(ctx, names) else {
        return; // At the next look.
    };
    let Ok(pass) = ctx.kubernetes.gate().pass() else {
        return;
    };
    match door.rebalance(pass).await {
        Ok(()) => {
            ctx.steps.keep_order(&names.uid, order);
            if let Some(order) = order {
                ctx.steps.keep_passed(&names.uid, order);
            }
        }
        Err(error) => tracing::warn!(
            hub.namespace = names.namespace,
            hub.name = names.hub,
            error = chain(&error),
            "the hubs could not be told to rebalance"
        ),
    }
}

/// Whether the time of an order is recent enough to count; what cannot be read as a time does not count.
fn is_recent(order: &str, now: Timestamp) -> bool {
    let lasts = Duration::from_secs(REBALANCE_SECONDS);
    order
        .parse::<Timestamp>()
        .is_ok_and(|at| now.duration_since(at).unsigned_abs() < lasts)
}

/// The way to the Hub's admin API, where the last poll found it.
fn open(ctx: &Context, names: &ObjectNames) -> Option<Door> {
    let poll = ctx.polls.of(&names.uid)?;
    door(ctx, names, &poll.key.as_ref()?.key).ok()
}

/// The hub in a pod, according to the last answered poll, and the way to it; `None`: it cannot be told anything now.
fn hub_of(ctx: &Context, names: &ObjectNames, pod: &str) -> Option<(Door, HubId)> {
    let poll = ctx.polls.good(&names.uid)?;
    let report = &poll.seen.as_ref().ok()?.report;
    let hub_id = report.pods.iter().find(|known| known.pod == pod)?.hub_id.clone();
    Some((open(ctx, names)?, hub_id))
}

fn log(names: &ObjectNames, pod: &str, told: Result<(), admin::Error>) {
    if let Err(error) = told {
        tracing::warn!(
            hub.namespace = names.namespace,
            hub.name = names.hub,
            pod,
            error = chain(&error),
            "a hub could not be told whether to give its connections away"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_to_rebalance_counts_for_as_long_as_hubs_follow_it() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().expect("a time");
        for (order, recent) in [
            ("2026-11-30T11:59:59Z", true),
            ("2026-11-30T11:50:01Z", true),
            ("2026-11-30T11:50:00Z", false),
            ("2026-11-30T12:00:30Z", true), // of a clock that is ahead
            ("2027-11-30T12:00:00Z", false),
            ("now", false),
        ] {
            assert_eq!(is_recent(order, now), recent, "{order}");
        }
    }
}
