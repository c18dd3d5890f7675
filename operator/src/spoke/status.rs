//! Reports the result of a Spoke's reconcile and what its hub reports, when that has changed.
//!
//! Invariants
//! - A heartbeat writes nothing; a status that says the same is not written again.
//! - A hub that does not answer makes `Connected` unknown, never false; the phase stays what it was.

mod judge;

use alkhub_crds::{Spoke, SpokeStatus, condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::json;

use self::judge::Finding;
use super::observe::Observed;
use super::register::Registered;
use super::validate::Waiting;
use crate::admin::ReportedSpoke;
use crate::apply::with_identity;
use crate::context::{Context, Seen};
use crate::error::Error;

/// The key is in place.
pub(super) async fn registered(
    ctx: &Context,
    spoke: &Spoke,
    observed: &Observed,
    registered: Registered,
) -> Result<(), Error> {
    write(ctx, spoke, observed, &Finding::Registered(registered)).await
}

/// Somebody else has to act first.
pub(super) async fn waiting(ctx: &Context, spoke: &Spoke, observed: &Observed, waiting: Waiting) -> Result<(), Error> {
    let why = observed.poll.as_ref().and_then(|poll| match &poll.seen {
        Ok(seen) => seen.spokes.as_ref().err().cloned(),
        Err(why) => Some(why.clone()),
    });
    write(
        ctx,
        spoke,
        observed,
        &Finding::Waiting {
            waiting,
            why: why.unwrap_or_default(),
        },
    )
    .await
}

/// Only the user can go on.
pub(super) async fn refused(
    ctx: &Context,
    spoke: &Spoke,
    observed: &Observed,
    reason: &'static str,
    message: &str,
) -> Result<(), Error> {
    write(
        ctx,
        spoke,
        observed,
        &Finding::Refused {
            reason,
            message: message.to_owned(),
        },
    )
    .await
}

/// The hub did not answer, or cannot now.
pub(super) async fn unanswered(ctx: &Context, spoke: &Spoke, observed: &Observed, why: &str) -> Result<(), Error> {
    write(
        ctx,
        spoke,
        observed,
        &Finding::Waiting {
            waiting: Waiting::HubUnreachable,
            why: why.to_owned(),
        },
    )
    .await
}

/// The API server refused something, or keeps failing.
pub(super) async fn failed(ctx: &Context, spoke: &Spoke, observed: &Observed, message: &str) -> Result<(), Error> {
    let finding = Finding::Failed {
        message: message.to_owned(),
    };
    write(ctx, spoke, observed, &finding).await
}

async fn write(ctx: &Context, spoke: &Spoke, observed: &Observed, finding: &Finding) -> Result<(), Error> {
    let old = spoke.status.clone().unwrap_or_default();
    let seen = observed.poll.as_ref().and_then(|poll| poll.seen.as_ref().ok());
    let uid = spoke.uid().unwrap_or_default();
    let info = seen.and_then(|seen| seen.spoke(&spoke.name_any(), &uid));
    let mut next = old.clone();
    if let Some(info) = info {
        report(&mut next, info, seen);
    }
    if finding.is_without_hub() {
        next = SpokeStatus::default();
    }
    let phase = judge::phase(spoke, finding, info);
    next.phase = Some(phase);
    next.secret_name = Some(spoke.secret_name());
    next.observed_generation = spoke.metadata.generation;
    if let Finding::Registered(registered) = finding {
        next.declared = Some(registered.declared.clone());
        next.key_hint.clone_from(&registered.key_hint);
    }
    let mut verdicts = judge::conditions(&old.conditions, spoke, finding, info);
    verdicts.push(judge::ready(spoke, phase, &verdicts));
    next.conditions = condition::set(&old.conditions, &verdicts, spoke.metadata.generation, Timestamp::now());
    if next == old {
        return Ok(());
    }
    let patch = with_identity::<Spoke>(
        &json!({ "metadata": { "name": spoke.name_any() }, "status": next }),
        spoke.uid().as_deref(),
    );
    ctx.kubernetes
        .apply_status::<Spoke>(&spoke.namespace().unwrap_or_default(), &spoke.name_any(), &patch)
        .await?;
    ctx.events.transitions(spoke, &old.conditions, &next.conditions).await;
    Ok(())
}

/// Copies what the hub reports into the status.
fn report(status: &mut SpokeStatus, info: &ReportedSpoke, seen: Option<&Seen>) {
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let pod_of = |hub_id: &alkhub_protocol::HubId| {
        let pods = seen.map(|seen| seen.report.pods.as_slice()).unwrap_or_default();
        let named = pods
            .iter()
            .find(|pod| &pod.hub_id == hub_id && !pod.pod.is_empty())
            .map(|pod| pod.pod.clone());
        named.unwrap_or_else(|| hub_id.to_string())
    };
    status.pod = info.instances.newest_at.as_ref().map(pod_of);
    status.instances = number(info.instances.count);
    status.operations = number(info.operations);
    status.connected_at = info.connected_at.and_then(time);
    status.disconnected_at = info.disconnected_at.and_then(time);
}

/// To the second, as the API server stores it: otherwise every status would differ from the stored one.
fn time(at: jiff::Timestamp) -> Option<Time> {
    Timestamp::from_second(at.as_second()).ok().map(Time)
}
