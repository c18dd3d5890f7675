//! Reports the result of a Hub's reconcile when it has changed: conditions, counts, Events.
//!
//! Invariants
//! - A status that says the same is not written again; counts alone are written every 15 s at most, except that a pod
//!   which gives its connections away has become empty.
//! - A hub that does not answer makes `Degraded` unknown, never false.

mod balance;
mod judge;
mod keys;
mod pods;
mod revisions;

use std::sync::Arc;

use alkhub_crds::condition::{self, ACCEPTED, Verdict};
use alkhub_crds::hub::{AutoscalingStatus, HubPod, RolloutStatus};
use alkhub_crds::{Hub, HubStatus};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::json;

pub(crate) use self::pods::Pods;
use crate::apply::with_identity;
use crate::context::{Context, Poll};
use crate::error::Error;
use crate::hub::answers::AnsweredOrders;
use crate::hub::apply::LiveObjects;
use crate::hub::autoscaler::Scaling;
use crate::hub::figures::{Figures, Sum};
use crate::hub::history;
use crate::hub::pod_problem::PodProblem;
use crate::hub::roll_out;
use crate::hub::spec_error::SpecError;
use crate::hub::validate::{Plan, tag};
use crate::names::{ObjectNames, Part, SERVING};

/// What can be observed of a Hub, whatever the verdict on its spec.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    /// None before its first pod was wanted.
    pub(crate) pods: Option<Pods>,
    pub(crate) poll: Arc<Poll>,
    pub(crate) figures: Figures,
    /// What people have ordered and these figures show the result of.
    pub(crate) answers: AnsweredOrders,
    pub(crate) problem: Option<PodProblem>,
}

/// The Hub is as wanted, or on the way there.
pub(crate) async fn applied(
    ctx: &Context,
    hub: &Hub,
    plan: &Plan,
    live: &LiveObjects,
    scaling: &Scaling,
    sight: &Sight,
) -> Result<(), Error> {
    let pods = &live.pods;
    let mut next = seen(hub, sight);
    next.applied_generation = hub.metadata.generation;
    next.selector = Some(selector(&plan.names));
    next.revision = Some(live.history.newest().name.clone());
    next.channel_prefix = Some(plan.prefix.to_string());
    next.redis_address.clone_from(&plan.redis_address);
    next.schema = Some(plan.names.schema());
    next.url = Some(plan.names.url());
    pin(&mut next, plan, live);
    let reported = sight.poll.seen.as_ref().ok().map(|seen| seen.report.version.clone());
    next.version = reported.or_else(|| tag(&plan.image).map(str::to_owned));
    next.rollout = Some(rolled_out(next.rollout.take(), live));
    let mut verdicts = judge::applied(pods, live.paused.as_ref(), sight);
    verdicts.extend(revisions::found(live));
    verdicts.push(scaling.conflict.clone());
    next.autoscaling.clone_from(&scaling.status);
    write(ctx, hub, sight, next, verdicts).await
}

/// How far a roll-out is.
fn rolled_out(before: Option<RolloutStatus>, live: &LiveObjects) -> RolloutStatus {
    let settled = live.pods.is_settled() && live.pods.wanted > 0;
    let newest = settled.then(|| live.history.newest().name.clone());
    RolloutStatus {
        settled_revision: newest.or_else(|| before.and_then(|before| before.settled_revision)),
        paused: live.paused.clone(),
    }
}

/// Pins images that have worked; one whose pods never became ready is not pinned.
fn pin(next: &mut HubStatus, plan: &Plan, live: &LiveObjects) {
    if live.pods.proven {
        next.image = Some(plan.image.clone());
    }
    for (part, image, kept) in [
        (Part::Redis, &plan.redis_image, &mut next.redis_image),
        (Part::Postgres, &plan.postgres_image, &mut next.postgres_image),
    ] {
        let name = plan.names.server(part);
        if live.sets.iter().any(|set| set.name_any() == name && is_serving(set)) {
            *kept = Some(image.clone());
        }
    }
}

/// Whether the one pod of a managed server is ready and as it was last wanted.
fn is_serving(set: &StatefulSet) -> bool {
    let Some(status) = &set.status else { return false };
    status.observed_generation >= set.metadata.generation
        && status.updated_replicas.unwrap_or_default() > 0
        && status.ready_replicas.unwrap_or_default() > 0
}

/// The pods that a Hub has, according to the cache; `None` before its first pod was wanted.
pub(crate) fn running(ctx: &Context, hub: &Hub) -> Option<Pods> {
    let fleet = roll_out::fleet(ctx, &ObjectNames::of(hub)).fleet;
    let newest = history::newest(ctx, hub);
    (!fleet.sets.is_empty()).then(|| Pods::of(hub, &fleet, newest.as_deref()))
}

/// Nothing is changed while the Hub is paused; its state is shown.
pub(crate) async fn paused(ctx: &Context, hub: &Hub, sight: &Sight) -> Result<(), Error> {
    let none = Pods::none(hub);
    let pods = sight.pods.as_ref().unwrap_or(&none);
    let mut next = seen(hub, sight);
    pods.fill(&mut next);
    write(ctx, hub, sight, next, judge::paused(pods, sight)).await
}

/// Only the user can go on; what runs is shown.
pub(crate) async fn refused(ctx: &Context, hub: &Hub, error: &SpecError, sight: &Sight) -> Result<(), Error> {
    let next = seen(hub, sight);
    let verdicts = judge::refused(error, next.applied_generation, sight);
    write(ctx, hub, sight, next, verdicts).await
}

/// The generation that was carried out last. An older operator has left only that of the spec it last accepted.
fn applied_generation(status: &HubStatus) -> Option<i64> {
    let accepted = condition::find(&status.conditions, ACCEPTED).filter(|accepted| accepted.status == "True");
    status
        .applied_generation
        .or_else(|| accepted.and_then(|accepted| accepted.observed_generation))
}

/// The API server refused something that a person must fix, or keeps failing; what runs is shown. `is_accepted`: the
/// spec was judged and is good.
pub(crate) async fn failed(
    ctx: &Context,
    hub: &Hub,
    error: &Error,
    is_accepted: bool,
    sight: &Sight,
) -> Result<(), Error> {
    let verdicts = judge::failed(&error.chain(), is_accepted, sight);
    write(ctx, hub, sight, seen(hub, sight), verdicts).await
}

/// The old status with the counts of a poll, and with the pods if they are known.
fn seen(hub: &Hub, sight: &Sight) -> HubStatus {
    let mut next = hub.status.clone().unwrap_or_default();
    next.applied_generation = applied_generation(&next);
    next.balance = sight.figures.sum.as_ref().ok().map(Sum::shown);
    next.hub_pods.clone_from(&sight.figures.pods);
    sight.answers.fill(&mut next);
    if let Ok(seen) = &sight.poll.seen {
        next.spokes = Some(i64::try_from(seen.report.spokes_connected).unwrap_or(i64::MAX));
    }
    if let Some(pods) = &sight.pods {
        pods.fill(&mut next);
        // What the last pod reported of its spokes ended with it; `channelPrefix` may be changed now.
        if pods.is_empty() {
            next.spokes = next.spokes.map(|_| 0);
        }
    }
    next
}

/// The load of a Hub's pods, according to the caches and the last poll.
pub(crate) fn figures(ctx: &Context, hub: &Hub) -> Figures {
    Figures::of(&roll_out::fleet(ctx, &ObjectNames::of(hub)).fleet)
}

/// Selects pods of every revision that are there to stay: an autoscaler must not count those that are to go.
fn selector(names: &ObjectNames) -> String {
    let mut labels = names.selector(Part::Hub);
    labels.insert(SERVING.0.to_owned(), SERVING.1.to_owned());
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

async fn write(
    ctx: &Context,
    hub: &Hub,
    sight: &Sight,
    mut next: HubStatus,
    mut verdicts: Vec<Verdict>,
) -> Result<(), Error> {
    let old = hub.status.clone().unwrap_or_default();
    next.observed_generation = hub.metadata.generation;
    let uid = hub.uid().unwrap_or_default();
    let poll = ctx.polls.of(&uid);
    verdicts.push(balance::judged(sight));
    let verdicts = revisions::judged(verdicts, &old.conditions);
    let verdicts = keys::judged(
        &verdicts,
        &old.conditions,
        poll.as_deref(),
        &ObjectNames::of(hub).auth(),
    );
    next.conditions = condition::set(&old.conditions, &verdicts, hub.metadata.generation, Timestamp::now());
    if next == old || (has_only_other_counts(&old, &next) && !ctx.count_times.is_due(&uid)) {
        return Ok(());
    }
    // The install that keeps the Hub is not written again: somebody may be handing it over just now.
    let status = HubStatus {
        operator: None,
        ..next.clone()
    };
    let patch = with_identity::<Hub>(
        &json!({ "metadata": { "name": hub.name_any() }, "status": status }),
        Some(&uid),
    );
    ctx.kubernetes
        .apply_status::<Hub>(&hub.namespace().unwrap_or_default(), &hub.name_any(), &patch)
        .await?;
    ctx.count_times.written(&uid);
    ctx.events.transitions(hub, &old.conditions, &next.conditions).await;
    Ok(())
}

/// Whether nothing but counts has changed, of which none is waited for: somebody may wait for a pod to be empty that was
/// told to give its connections away.
fn has_only_other_counts(old: &HubStatus, next: &HubStatus) -> bool {
    let is_emptied = |pod: &HubPod| pod.draining && [pod.connections, pod.in_flight, pod.reconnecting] == [Some(0); 3];
    let is_known = |emptied: &HubPod| {
        let before = old.hub_pods.iter().find(|pod| pod.name == emptied.name);
        before.is_some_and(is_emptied)
    };
    let mut emptied = next.hub_pods.iter().filter(|pod| is_emptied(pod));
    emptied.all(is_known) && without_counts(next) == without_counts(old)
}

fn without_counts(status: &HubStatus) -> HubStatus {
    let without = |pod: &HubPod| HubPod {
        connections: None,
        in_flight: None,
        reconnecting: None,
        ..pod.clone()
    };
    HubStatus {
        autoscaling: status.autoscaling.clone().map(|autoscaling| AutoscalingStatus {
            looked_at: None,
            ..autoscaling
        }),
        balance: None,
        hub_pods: status.hub_pods.iter().map(without).collect(),
        spokes: None,
        ..status.clone()
    }
}

#[cfg(test)]
mod tests {
    use alkhub_crds::hub::HubBalance;
    use tokio::time::Instant;

    use super::*;
    use crate::hub::fleet::Fleet;
    use crate::hub::testing::{given, hub};

    #[test]
    fn that_a_pod_which_drains_has_become_empty_is_more_than_a_count() {
        let with = |draining, connections| HubStatus {
            hub_pods: vec![HubPod {
                draining,
                connections: Some(connections),
                in_flight: Some(0),
                reconnecting: Some(0),
                ..HubPod::default()
            }],
            ..HubStatus::default()
        };
        let is_count = |draining, before, after| has_only_other_counts(&with(draining, before), &with(draining, after));

        assert!(is_count(true, 900, 1) && is_count(false, 1, 0));
        assert!(!is_count(true, 1, 0));
        assert!(is_count(true, 0, 1), "it is written with the next counts");
    }

    #[test]
    fn a_hub_without_a_pod_has_no_spokes_and_what_no_pod_reports_is_not_known() {
        let mut hub = hub(given());
        hub.status = Some(HubStatus {
            spokes: Some(3),
            balance: Some(HubBalance::default()),
            ..HubStatus::default()
        });
        let with = |all: i32| {
            let pods = Pods {
                observed: true,
                all,
                ..Pods::default()
            };
            let poll = Poll {
                at: Instant::now(),
                asked: false,
                key: None,
                denied: false,
                seen: Err("no pod is ready".to_owned()),
            };
            let sight = Sight {
                pods: Some(pods),
                poll: Arc::new(poll),
                figures: Figures::of(&Fleet::default()),
                answers: AnsweredOrders::default(),
                problem: None,
            };
            let next = seen(&hub, &sight);
            (next.spokes, next.balance)
        };

        assert_eq!(
            with(1),
            (Some(3), None),
            "a pod that does not answer may hold them still"
        );
        assert_eq!(with(0), (Some(0), None));
    }
}
