//! Brings the pods of a Hub closer to what is wanted: reads the fleet, decides on one step, and writes it.
//!
//! Invariants
//! - One write per reconcile, to exactly the object that was seen; the next step is decided when the cache shows that
//!   write.
//! - A pod that is to go is told repeatedly to give its connections away: once nobody repeats it, it keeps them.
//! - A mark is taken back only after the pod's hub was told to keep its connections, or has had the time to end its
//!   drain by itself.
//! - A step that removes pods is decided a second time, on what the API server itself has, and for a Hub that still
//!   asks for it.

use std::ops::Add as _;
use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::Hub;
use alkhub_protocol::admin::{LastMinute, PartState};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};

use crate::admin::ReportedPod;
use crate::apply::confirm;
use crate::context::Context;
use crate::error::Error;
use crate::hub::fleet::seen::{self, FleetSight, Known, PodLoads};
use crate::hub::fleet::{self, Fleet, Goal, HeldPods, Scale, Step};
use crate::hub::steps::{Written, WrittenKind};
use crate::hub::{orders, poll};
use crate::names::{DELETION_COST, DRAIN_SINCE, ObjectNames, Part, SERVING, is_owned_by};

/// Lower than anything else: Kubernetes removes this pod first.
const FIRST: i32 = i32::MIN;

/// A report counts as stale when it is older than the poll interval by more than this.
const LATE: Duration = Duration::from_secs(20);

/// A term without a report of a Hub waits this long for one before it chooses among ready pods.
const UNASKED: Duration = Duration::from_secs(30);

/// How far a Hub's pods are.
#[derive(Clone, Debug)]
pub(crate) struct RollOut {
    /// As it was before the step.
    pub(crate) fleet: Fleet,
    /// Something was written that the fleet does not show yet.
    pub(crate) is_written: bool,
    /// The next step may become possible after this long, by the passing of time alone.
    pub(crate) again: Option<Duration>,
}

/// Takes the next step towards a goal. `count` is what pods of the wanted revision tell the other hubs.
pub(crate) async fn advance(ctx: &Context, hub: &Hub, goal: &Goal, count: i64) -> Result<RollOut, Error> {
    let names = ObjectNames::of(hub);
    let FleetSight { fleet, changes_in } = fleet(ctx, &names);
    // The first report will be there at the next look.
    let unasked = (goal.held == Some(HeldPods::Unasked)).then_some(poll::AGAIN);
    let roll_out = |is_written| RollOut {
        fleet: fleet.clone(),
        is_written,
        again: changes_in.into_iter().chain(unasked).min(),
    };
    let unseen = unseen(ctx, &names);
    let mut step = fleet::step(&fleet, goal);
    let leaving = leaving(&fleet, goal, unseen.as_ref(), &step);
    let looked_after = leaving.iter();
    ctx.steps.look_after(
        &names.uid,
        looked_after.map(|pod| (pod.uid.clone(), pod.load.map(|load| load.is_draining))),
    );
    let told = leaving.iter().map(|pod| (pod.name.as_str(), pod.uid.as_str()));
    orders::drain(ctx, &names, told, Some(count)).await;
    if unseen.is_some() {
        return Ok(roll_out(true));
    }
    if matches!(step, Step::Drain(_) | Step::Shrink(_)) {
        confirm(&ctx.kubernetes, hub).await?;
        step = step_now(ctx, &names, goal).await?;
    }
    if step == Step::Hold {
        return Ok(roll_out(false));
    }
    match write(ctx, &names, &step).await {
        Ok(is_written) => Ok(roll_out(is_written)),
        // The pod, or its ReplicaSet, has gone by itself.
        Err(error) if error.is_not_found() => Err(Error::Stale),
        Err(error) => Err(error),
    }
}

/// The fleet of a Hub, as the caches have it.
pub(crate) fn fleet(ctx: &Context, names: &ObjectNames) -> FleetSight {
    let sets = ctx
        .stores
        .replica_sets
        .state_filter(|set| is_owned_by(&set.metadata, &names.uid));
    let pods = ctx.stores.pods_of(names, Part::Hub);
    seen::of(&sets, &pods, &known(ctx, names), Timestamp::now())
}

/// The ready pods that stay for now.
pub(crate) fn held(ctx: &Context, names: &ObjectNames) -> Option<HeldPods> {
    let report = ctx
        .polls
        .good(&names.uid)
        .filter(|poll| poll.at.elapsed() <= stale_after(ctx));
    match report.as_ref().and_then(|poll| poll.seen.as_ref().ok()) {
        Some(seen) => (seen.report.redis == PartState::Down).then_some(HeldPods::NoRedis),
        None => {
            (ctx.polls.good(&names.uid).is_none() && ctx.steps.age(&names.uid) < UNASKED).then_some(HeldPods::Unasked)
        }
    }
}

/// Pods that are to go and whose hubs are to be told so. Leaves out a pod whose mark may have been taken back, since
/// the cache does not show its last write yet, and one whose mark the next step takes back.
fn leaving<'a>(fleet: &'a Fleet, goal: &Goal, unseen: Option<&Written>, next: &Step) -> Vec<&'a fleet::Pod> {
    let is_unseen =
        |pod: &fleet::Pod| unseen.is_some_and(|last| last.kind == WrittenKind::Pod && last.name == pod.name);
    let is_cancelled = |pod: &fleet::Pod| matches!(next, Step::Cancel(kept) if kept.uid == pod.uid);
    let stays = |set: &fleet::Set, pod: &fleet::Pod| goal.keeps(set, pod) || is_unseen(pod) || is_cancelled(pod);
    let marked = fleet.sets.iter().flat_map(|set| set.here().map(move |pod| (set, pod)));
    let marked = marked.filter(|(set, pod)| pod.drain.is_some() && !stays(set, pod));
    marked.map(|(_, pod)| pod).collect()
}

/// The step for what the API server itself has.
async fn step_now(ctx: &Context, names: &ObjectNames, goal: &Goal) -> Result<Step, Error> {
    let labels = names.selector(Part::Hub);
    let sets = ctx.kubernetes.list_labelled::<ReplicaSet>(&names.namespace, &labels);
    let pods = ctx.kubernetes.list_labelled::<v1::Pod>(&names.namespace, &labels);
    let (sets, pods) = tokio::try_join!(sets, pods)?;
    let sets: Vec<_> = sets
        .into_iter()
        .filter(|set| is_owned_by(&set.metadata, &names.uid))
        .map(Arc::new)
        .collect();
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let seen = seen::of(&sets, &pods, &known(ctx, names), Timestamp::now());
    Ok(fleet::step(&seen.fleet, goal))
}

/// The loads of pods, as the hubs last reported them, and how long those that are to go have been looked after. Nothing
/// is known from a stale report, or from a hub without Redis, which does not know the others.
fn known(ctx: &Context, names: &ObjectNames) -> Known {
    Known {
        loads: reported(ctx, names, PodLoads::of),
        drains: ctx.steps.drains(&names.uid),
    }
}

/// The figures of the last minute for the chosen pods together; they are chosen by name.
pub(crate) fn last_minute(ctx: &Context, names: &ObjectNames, is_meant: impl Fn(&str) -> bool) -> Option<LastMinute> {
    let of_each = |pods: &[ReportedPod]| {
        let meant = pods.iter().filter(|pod| is_meant(&pod.pod));
        meant.filter_map(|pod| pod.last_minute).reduce(LastMinute::add)
    };
    reported(ctx, names, |_, pods| of_each(pods)).flatten()
}

/// The age from which on a report is stale.
pub(crate) fn stale_after(ctx: &Context) -> Duration {
    ctx.options.poll_interval + LATE
}

/// What hubs last reported of their pods, and when; a failed poll does not invalidate it.
fn reported<T>(ctx: &Context, names: &ObjectNames, read: impl FnOnce(Timestamp, &[ReportedPod]) -> T) -> Option<T> {
    let poll = ctx.polls.good(&names.uid)?;
    let report = &poll.seen.as_ref().ok()?.report;
    let age = poll.at.elapsed();
    let is_known = age <= stale_after(ctx) && report.redis == PartState::Up;
    let age = SignedDuration::try_from(age).ok().filter(|_| is_known)?;
    Some(read(Timestamp::now() - age, &report.pods))
}

/// Takes a step; returns whether something was written.
async fn write(ctx: &Context, names: &ObjectNames, step: &Step) -> Result<bool, Error> {
    match step {
        Step::Hold => return Ok(false),
        Step::Surge(scale) | Step::Shrink(scale) => self::scale(ctx, names, scale).await?,
        Step::Drain(pod) | Step::Renew(pod) => mark(ctx, names, pod, &marked(Timestamp::now())).await?,
        Step::Cancel(pod) => {
            // The hub comes first: once the mark is gone, nobody would see that it still has to be told.
            let is_drained = pod.drain.is_some() && !pod.is_emptied;
            if is_drained && !orders::undrain(ctx, names, pod).await? {
                return Ok(false);
            }
            mark(ctx, names, pod, &unmarked()).await?;
        }
    }
    Ok(true)
}

async fn scale(ctx: &Context, names: &ObjectNames, scale: &Scale) -> Result<(), Error> {
    tracing::info!(
        hub.namespace = names.namespace,
        hub.name = names.hub,
        replica_set = scale.set,
        replicas = scale.to,
        "asking for another number of pods"
    );
    let fields = json!({
        "metadata": { "uid": scale.uid, "resourceVersion": scale.resource_version },
        "spec": { "replicas": scale.to },
    });
    let scaled = ctx
        .kubernetes
        .scale::<ReplicaSet>(&names.namespace, &scale.set, &fields)
        .await?;
    ctx.steps.keep(&names.uid, WrittenKind::Set, &scaled.metadata);
    Ok(())
}

async fn mark(ctx: &Context, names: &ObjectNames, pod: &fleet::Pod, fields: &Value) -> Result<(), Error> {
    tracing::info!(
        hub.namespace = names.namespace,
        hub.name = names.hub,
        pod = pod.name,
        is_to_go = pod.drain.is_none() && pod.is_serving,
        "marking a pod"
    );
    let mut fields = fields.clone();
    fields["metadata"]["uid"] = pod.uid.clone().into();
    fields["metadata"]["resourceVersion"] = pod.resource_version.clone().into();
    let marked = ctx
        .kubernetes
        .merge::<v1::Pod>(&names.namespace, &pod.name, &fields)
        .await?;
    ctx.steps.keep(&names.uid, WrittenKind::Pod, &marked.metadata);
    Ok(())
}

fn marked(now: Timestamp) -> Value {
    json!({ "metadata": {
        "annotations": { DRAIN_SINCE: now.to_string(), DELETION_COST: FIRST.to_string() },
        "labels": { SERVING.0: null },
    } })
}

fn unmarked() -> Value {
    json!({ "metadata": {
        "annotations": { DRAIN_SINCE: null, DELETION_COST: null },
        "labels": { SERVING.0: SERVING.1 },
    } })
}

/// The last write, if the cache still has its object as it was before.
fn unseen(ctx: &Context, names: &ObjectNames) -> Option<Written> {
    let written = ctx.steps.last(&names.uid)?;
    let is_unseen = match written.kind {
        WrittenKind::Set => {
            let place = ObjectRef::new(&written.name).within(&names.namespace);
            let set = ctx.stores.replica_sets.get(&place);
            written.is_unseen(set.as_ref().map(|set| &set.metadata))
        }
        WrittenKind::Pod => {
            let place = ObjectRef::new(&written.name).within(&names.namespace);
            let pod = ctx.stores.pods.get(&place);
            written.is_unseen(pod.as_ref().map(|pod| &pod.metadata))
        }
    };
    is_unseen.then_some(written)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::hub::fleet::testing::{pod, set};
    use crate::hub::fleet::{Drain, Pod};
    use crate::hub::steps::Steps;

    #[test]
    fn a_pod_whose_mark_may_be_taken_back_or_that_is_held_is_not_told_to_go() {
        let marked = |name: &str| Pod {
            drain: Some(Drain {
                is_over: false,
                is_lapsed: false,
            }),
            ..pod(name)
        };
        let sets = vec![
            set("a", 2, vec![pod("a0"), marked("a1")]),
            set("b", 1, vec![marked("b0")]),
        ];
        let goal = |held| Goal {
            revision: "b".to_owned(),
            replicas: 1,
            is_paused: false,
            held,
        };
        let steps = Steps::default();
        let meta = ObjectMeta {
            name: Some("a1".to_owned()),
            ..ObjectMeta::default()
        };
        steps.keep("hub", WrittenKind::Pod, &meta);
        let fleet = Fleet { sets };
        let told = |held, unseen: Option<&Written>, next: Step| -> Vec<_> {
            let leaving = leaving(&fleet, &goal(held), unseen, &next);
            leaving.into_iter().map(|pod| pod.name.clone()).collect()
        };

        assert_eq!(told(None, None, Step::Hold), ["a1", "b0"]);
        assert_eq!(told(None, steps.last("hub").as_ref(), Step::Hold), ["b0"]);
        assert_eq!(told(Some(HeldPods::NoRedis), None, Step::Hold), ["a1"]);
        assert_eq!(told(None, None, Step::Cancel(marked("b0"))), ["a1"]);
        assert_eq!(told(None, None, Step::Renew(marked("b0"))), ["a1", "b0"]);
    }
}
