//! Writes a Hub's objects: what pods need first, the pods last, then what is no longer wanted goes.
//!
//! Invariants
//! - What a pod of an older revision may need (its settings, a managed server) goes only after every pod is of the newest
//!   revision and ready: until then the change can be taken back.
//! - A volume goes with its Hub and with nothing else.

use std::sync::Arc;

use alkhub_crds::Hub;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;

use crate::apply::Applier;
use crate::context::Context;
use crate::error::Error;
use crate::hub::build::Wanted;
use crate::hub::status::Pods;
use crate::hub::validate::Plan;
use crate::names::is_owned_by;

/// What is there after everything was applied; a status can be made of nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) deployment: Arc<Deployment>,
    /// The managed servers.
    pub(crate) sets: Vec<Arc<StatefulSet>>,
}

/// Names of what is wanted, by kind.
struct Kept {
    configs: Vec<String>,
    services: Vec<String>,
    sets: Vec<String>,
    disruptions: Vec<String>,
}

pub(crate) async fn apply(ctx: &Context, hub: &Hub, plan: &Plan, wanted: Wanted) -> Result<Outcome, Error> {
    let kept = Kept::of(&wanted);
    let Wanted {
        account,
        config,
        services,
        sets,
        disruption,
        deployment,
    } = wanted;
    let applier = Applier {
        kubernetes: &ctx.kubernetes,
        applied: &ctx.applied,
        owner: &plan.names.uid,
    };
    let stores = &ctx.stores;
    applier.apply(&stores.accounts, account).await?;
    applier.apply(&stores.configs, config).await?;
    for service in services {
        applier.apply(&stores.services, service).await?;
    }
    let mut made = Vec::new();
    for set in sets {
        made.push(applier.apply(&stores.sets, set).await?);
    }
    if let Some(disruption) = disruption {
        applier.apply(&stores.disruptions, disruption).await?;
    }
    let deployment = pods(ctx, hub, &applier, deployment).await?;
    let settled = Pods::of(hub, &deployment).is_settled();
    prune(ctx, hub, &applier, &kept, settled).await?;
    Ok(Outcome { deployment, sets: made })
}

/// Fewer pods are asked for only of the Deployment that was seen, for a Hub that still asks for them.
async fn pods(ctx: &Context, hub: &Hub, applier: &Applier<'_>, wanted: Deployment) -> Result<Arc<Deployment>, Error> {
    let place = ObjectRef::new(&wanted.name_any()).within(&hub.namespace().unwrap_or_default());
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let seen = ctx.stores.deployments.get(&place);
    if seen.is_some_and(|seen| replicas(&seen) > replicas(&wanted)) {
        confirm(ctx, hub).await?;
        return applier.apply_to_seen(&ctx.stores.deployments, wanted).await;
    }
    applier.apply(&ctx.stores.deployments, wanted).await
}

/// What pods of an older revision may still read or talk to stays until there are none.
async fn prune(ctx: &Context, hub: &Hub, applier: &Applier<'_>, kept: &Kept, settled: bool) -> Result<(), Error> {
    let stores = &ctx.stores;
    let disruptions = applier.unwanted(&stores.disruptions, &kept.disruptions);
    // With no pod at all nothing has shown yet that the replacement works.
    let (configs, services, sets) = if settled && hub.spec.replicas > 0 {
        (
            applier.unwanted(&stores.configs, &kept.configs),
            applier.unwanted(&stores.services, &kept.services),
            applier.unwanted(&stores.sets, &kept.sets),
        )
    } else {
        (Vec::new(), Vec::new(), Vec::new())
    };
    if configs.len() + services.len() + sets.len() + disruptions.len() == 0 {
        return Ok(());
    }
    confirm(ctx, hub).await?;
    let passwords = passwords(ctx, applier.owner, &sets);
    applier.remove(&sets).await?;
    applier.remove(&passwords).await?;
    applier.remove(&services).await?;
    applier.remove(&configs).await?;
    applier.remove(&disruptions).await
}

/// The passwords of servers that kept nothing. That of a volume stays with it: both are used again when the server is
/// wanted again, and both go with the Hub.
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

// === impl Kept ===

impl Kept {
    fn of(wanted: &Wanted) -> Self {
        Self {
            configs: vec![wanted.config.name_any()],
            services: wanted.services.iter().map(|object| object.name_any()).collect(),
            sets: wanted.sets.iter().map(|object| object.name_any()).collect(),
            disruptions: wanted.disruption.iter().map(|object| object.name_any()).collect(),
        }
    }
}

/// The Hub as the API server has it now is the one that the plan was made of.
async fn confirm(ctx: &Context, hub: &Hub) -> Result<(), Error> {
    let namespace = hub.namespace().unwrap_or_default();
    let now = ctx.kubernetes.get::<Hub>(&namespace, &hub.name_any()).await?;
    let same = now.is_some_and(|now| now.uid() == hub.uid() && now.metadata.generation == hub.metadata.generation);
    if same { Ok(()) } else { Err(Error::Stale) }
}
