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
use crate::hub::build::DesiredObjects;
use crate::hub::status::Pods;
use crate::hub::validate::Plan;
use crate::names::is_owned_by;

/// What is there after everything was applied; a status can be made of nothing else.
#[derive(Clone, Debug)]
pub(crate) struct LiveObjects {
    pub(crate) deployment: Arc<Deployment>,
    /// The managed servers.
    pub(crate) sets: Vec<Arc<StatefulSet>>,
}

/// A volume that a StatefulSet asks for: size and class; `None`: none, its data are in the pod.
type Volume = Option<(String, Option<String>)>;

/// Names of what is wanted, by kind.
struct Kept {
    configs: Vec<String>,
    services: Vec<String>,
    sets: Vec<String>,
    disruptions: Vec<String>,
}

pub(crate) async fn apply(ctx: &Context, hub: &Hub, plan: &Plan, wanted: DesiredObjects) -> Result<LiveObjects, Error> {
    let kept = Kept::of(&wanted);
    let DesiredObjects {
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
    let deployment = pods(ctx, hub, &applier, deployment).await?;
    let settled = Pods::of(hub, &deployment).is_settled();
    prune(ctx, hub, &applier, &kept, settled).await?;
    Ok(LiveObjects { deployment, sets: made })
}

/// The API server refuses another volume for a StatefulSet that is there, and says only that it does: a Hub whose server
/// was not managed for a moment can ask for one before the old server is gone.
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

/// How much a size is; the API server writes `1024Mi` as `1Gi`.
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
    fn of(wanted: &DesiredObjects) -> Self {
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
