//! Writes a Hub's objects: first what pods need, then the pods; last, what is no longer wanted is removed.
//!
//! Invariants
//! - What a pod of an older revision may need (a managed server) is removed only once every pod is of the newest
//!   revision and ready: until then the change can be taken back. A revision and its settings are removed once other
//!   revisions were wanted after it, and never while it has pods.
//! - A volume is deleted with its Hub and with nothing else.

use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::Hub;
use alkhub_crds::hub::PausedRollout;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::apply::{Applier, confirm};
use crate::context::Context;
use crate::error::Error;
use crate::hub::build::DesiredObjects;
use crate::hub::fleet::{Fleet, Goal};
use crate::hub::history::KeptRevisions;
use crate::hub::pause;
use crate::hub::roll_out::{self, RollOut};
use crate::hub::status::Pods;
use crate::hub::validate::Plan;
use crate::names::is_owned_by;

/// What exists after everything was applied; a status can be made of nothing less.
#[derive(Clone, Debug)]
pub(crate) struct LiveObjects {
    pub(crate) pods: Pods,
    /// The managed servers.
    pub(crate) sets: Vec<Arc<StatefulSet>>,
    pub(crate) history: KeptRevisions,
    /// Secrets whose content differs from what pods of older revisions were made for.
    pub(crate) changed_secrets: Vec<String>,
    /// Why the roll-out is paused.
    pub(crate) paused: Option<PausedRollout>,
    /// The next step may become possible after this long, by the passing of time alone.
    pub(crate) again: Option<Duration>,
}

/// The volume that a StatefulSet asks for: size and class. `None`: no volume, the data are in the pod.
type Volume = Option<(String, Option<String>)>;

/// Names of what is wanted, by kind.
struct Kept {
    services: Vec<String>,
    sets: Vec<String>,
    disruptions: Vec<String>,
    revisions: Revisions,
}

/// Names of what is kept for revisions, by kind.
struct Revisions {
    configs: Vec<String>,
    /// ControllerRevisions and ReplicaSets.
    sets: Vec<String>,
}

/// The revisions that are kept: the newest, the last one before it, and every one with pods.
pub(crate) fn kept(ctx: &Context, plan: &Plan, mut history: KeptRevisions) -> KeptRevisions {
    let fleet = roll_out::fleet(ctx, &plan.names).fleet;
    history.forget(|revision| has_pods(&fleet, &revision.name));
    history
}

/// What the pods shall become, and why they stay as they are for now.
fn goal(ctx: &Context, hub: &Hub, plan: &Plan, history: &KeptRevisions) -> (Goal, Option<PausedRollout>) {
    let revision = &history.newest().name;
    let fleet = roll_out::fleet(ctx, &plan.names).fleet;
    let of_it = |pod: &str| {
        fleet
            .set(revision)
            .is_some_and(|set| set.pods.iter().any(|own| own.name == pod))
    };
    let minute = roll_out::last_minute(ctx, &plan.names, of_it);
    let known = ctx.steps.pause(&plan.names.uid);
    let paused = pause::judge(hub, &fleet, revision, known, minute, Timestamp::now());
    ctx.steps.keep_pause(&plan.names.uid, paused.clone());
    let goal = Goal {
        revision: revision.clone(),
        replicas: plan.replicas,
        is_paused: paused.is_some(),
        held: roll_out::held(ctx, &plan.names),
    };
    (goal, paused)
}

pub(crate) async fn apply(
    ctx: &Context,
    hub: &Hub,
    plan: &Plan,
    history: KeptRevisions,
    wanted: DesiredObjects,
) -> Result<LiveObjects, Error> {
    let DesiredObjects {
        account,
        configs,
        services,
        sets,
        disruption,
        replica_sets,
    } = wanted;
    let mut kept = Kept {
        services: services.iter().map(ResourceExt::name_any).collect(),
        sets: sets.iter().map(ResourceExt::name_any).collect(),
        disruptions: disruption.iter().map(ResourceExt::name_any).collect(),
        revisions: Revisions::of(plan, &history),
    };
    let applier = Applier {
        kubernetes: &ctx.kubernetes,
        applied: &ctx.applied,
        owner: &plan.names.uid,
    };
    let stores = &ctx.stores;
    applier.apply(&stores.accounts, account).await?;
    for config in configs {
        applier.apply(&stores.configs, config).await?;
    }
    for service in services {
        applier.apply(&stores.services, service).await?;
    }
    let mut made = Vec::new();
    for set in sets {
        let place = ObjectRef::new(&set.name_any()).within(&plan.names.namespace);
        if let Some(live) = stores
            .sets
            .get(&place)
            .filter(|live| is_owned_by(&live.metadata, applier.owner))
        {
            fixed(&live, &set)?;
        }
        made.push(applier.apply(&stores.sets, set).await?);
    }
    if let Some(disruption) = disruption {
        applier.apply(&stores.disruptions, disruption).await?;
    }
    for (index, set) in replica_sets.into_iter().enumerate() {
        let place = ObjectRef::new(&set.name_any()).within(&plan.names.namespace);
        // An older revision without a ReplicaSet is not given one.
        if index == 0 || stores.replica_sets.get(&place).is_some() {
            applier.apply_unscaled(&stores.replica_sets, set).await?;
        }
    }
    let (goal, paused) = goal(ctx, hub, plan, &history);
    let roll_out = roll_out::advance(ctx, hub, &goal, history.newest().made.count).await?;
    let pods = Pods::of(hub, &roll_out.fleet, Some(&goal.revision)).after(roll_out.is_written);
    kept.revisions.and_those_with_pods(plan, &roll_out.fleet);
    prune(ctx, hub, &applier, &kept, pods.is_settled()).await?;
    let RollOut { fleet, again, .. } = roll_out;
    Ok(LiveObjects {
        changed_secrets: history.changed_secrets(&plan.names.auth(), |revision| has_pods(&fleet, &revision.name)),
        pods,
        sets: made,
        history,
        paused,
        again,
    })
}

fn has_pods(fleet: &Fleet, revision: &str) -> bool {
    fleet
        .set(revision)
        .is_some_and(|set| set.replicas > 0 || !set.pods.is_empty())
}

/// The API server refuses another volume for an existing StatefulSet without saying why. This can happen to a Hub whose
/// server was not managed for a moment and that asks for one again before the old server is gone.
fn fixed(live: &StatefulSet, wanted: &StatefulSet) -> Result<(), Error> {
    let (was, now) = (volume(live), volume(wanted));
    let same = match (&was, &now) {
        (Some((was, class)), Some((now, other))) => bytes(was) == bytes(now) && class == other,
        (was, now) => was == now,
    };
    if same {
        return Ok(());
    }
    let name = live.name_any();
    let part = if name.ends_with("-redis") { "redis" } else { "postgres" };
    Err(Error::Fixed {
        field: format!("spec.{part}.storage"),
        name,
        was: match was {
            None => "ephemeral: true".to_owned(),
            Some((size, None)) => format!("size: {size}"),
            Some((size, Some(class))) => format!("size: {size}, storageClassName: {class}"),
        },
    })
}

/// A size in bytes, to compare by value; the API server writes `1024Mi` as `1Gi`.
fn bytes(size: &str) -> Option<u128> {
    const UNITS: [(&str, u128); 13] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("", 1),
    ];
    let (unit, factor) = UNITS.into_iter().find(|(unit, _)| size.ends_with(unit))?;
    size[..size.len() - unit.len()]
        .parse::<u128>()
        .ok()?
        .checked_mul(factor)
}

fn volume(set: &StatefulSet) -> Volume {
    let claims = set.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let claim = claims.first()?.spec.as_ref()?;
    let requests = claim
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage"));
    Some((
        size.map(|size| size.0.clone()).unwrap_or_default(),
        claim.storage_class_name.clone(),
    ))
}

/// Removes what is no longer wanted, except what pods of an older revision may still talk to, which stays until there
/// are none.
async fn prune(ctx: &Context, hub: &Hub, applier: &Applier<'_>, kept: &Kept, settled: bool) -> Result<(), Error> {
    let stores = &ctx.stores;
    let disruptions = applier.unwanted(&stores.disruptions, &kept.disruptions);
    let replica_sets = applier.unwanted(&stores.replica_sets, &kept.revisions.sets);
    let revisions = applier.unwanted(&stores.revisions, &kept.revisions.sets);
    let configs = applier.unwanted(&stores.configs, &kept.revisions.configs);
    // While there is no pod at all, nothing has shown yet that the replacement works.
    let (services, sets) = if settled && hub.spec.replicas > 0 {
        (
            applier.unwanted(&stores.services, &kept.services),
            applier.unwanted(&stores.sets, &kept.sets),
        )
    } else {
        (Vec::new(), Vec::new())
    };
    let of_revisions = replica_sets.len() + revisions.len() + configs.len();
    if of_revisions + services.len() + sets.len() + disruptions.len() == 0 {
        return Ok(());
    }
    confirm(&ctx.kubernetes, hub).await?;
    let passwords = passwords(ctx, applier.owner, &sets);
    applier.remove(&sets).await?;
    applier.remove(&passwords).await?;
    applier.remove(&services).await?;
    applier.remove(&replica_sets).await?;
    applier.remove(&configs).await?;
    applier.remove(&revisions).await?;
    applier.remove(&disruptions).await
}

/// The passwords of servers that kept no data. The password of a volume stays with it: both are used again when the
/// server is wanted again, and both go with the Hub.
fn passwords(ctx: &Context, owner: &str, sets: &[Arc<StatefulSet>]) -> Vec<Arc<Secret>> {
    let keeps = |set: &StatefulSet| {
        let claims = set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_ref());
        claims.is_some_and(|claims| !claims.is_empty())
    };
    let forgetful = sets.iter().filter(|set| !keeps(set));
    let secrets = forgetful.filter_map(|set| {
        let seen = ctx.stores.secret(&set.namespace()?, &set.name_any())?;
        let ours = is_owned_by(&seen.metadata, owner) && seen.metadata.deletion_timestamp.is_none();
        ours.then(|| {
            Arc::new(Secret {
                metadata: seen.metadata.clone(),
                ..Secret::default()
            })
        })
    });
    secrets.collect()
}

// === impl Revisions ===

impl Revisions {
    fn of(plan: &Plan, history: &KeptRevisions) -> Self {
        let all = || history.revisions().iter().map(|revision| revision.name.as_str());
        Self {
            configs: all().map(|revision| plan.names.config(revision)).collect(),
            sets: all().map(|revision| plan.names.revision(revision)).collect(),
        }
    }

    /// Adds the revisions of existing pods: they read their settings even if the revision is no longer known.
    fn and_those_with_pods(&mut self, plan: &Plan, fleet: &Fleet) {
        for set in fleet.sets.iter().filter(|set| has_pods(fleet, &set.revision)) {
            self.configs.push(plan.names.config(&set.revision));
            self.sets.push(set.name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(claims: &Value) -> StatefulSet {
        let spec = json!({"selector": {}, "template": {}, "serviceName": "s", "volumeClaimTemplates": claims});
        serde_json::from_value(json!({"metadata": {"name": "demo-redis"}, "spec": spec})).expect("a StatefulSet")
    }

    #[test]
    fn another_volume_than_the_server_was_made_with_is_refused_with_the_way_out() {
        let claim = |size: &str| json!([{"metadata": {"name": "data"}, "spec": {"volumeMode": "Filesystem", "resources": {"requests": {"storage": size}}}}]);

        assert!(fixed(&set(&claim("1Gi")), &set(&claim("1024Mi"))).is_ok());
        let error = fixed(&set(&claim("1Gi")), &set(&claim("2Gi")))
            .expect_err("another size")
            .chain();
        assert!(
            error.contains("spec.redis.storage") && error.contains("size: 1Gi"),
            "{error}"
        );
        let error = fixed(&set(&json!([])), &set(&claim("2Gi")))
            .expect_err("a volume")
            .chain();
        assert!(error.contains("ephemeral: true"), "{error}");
    }
}
