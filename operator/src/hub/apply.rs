//! Writes a Hub's objects: what pods need first, the pods last, then what is no longer wanted goes.

use std::sync::Arc;

use alkhub_crds::Hub;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;

use crate::apply::Applier;
use crate::context::Context;
use crate::error::Error;
use crate::hub::build::Wanted;
use crate::hub::validate::{Plan, Wiring};
use crate::names::{Part, is_owned_by};

/// What is there after everything was applied; a status can be made of nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) deployment: Arc<Deployment>,
}

pub(crate) async fn apply(ctx: &Context, hub: &Hub, plan: &Plan, wanted: Wanted) -> Result<Outcome, Error> {
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
    let kept_services: Vec<_> = services.iter().map(|object| object.name_any()).collect();
    let kept_sets: Vec<_> = sets.iter().map(|object| object.name_any()).collect();
    let kept_disruptions: Vec<_> = disruption.iter().map(|object| object.name_any()).collect();

    applier.apply(&stores.accounts, account).await?;
    applier.apply(&stores.configs, config).await?;
    for service in services {
        applier.apply(&stores.services, service).await?;
    }
    for set in sets {
        applier.apply(&stores.sets, set).await?;
    }
    if let Some(disruption) = disruption {
        applier.apply(&stores.disruptions, disruption).await?;
    }
    let deployment = applier.apply(&stores.deployments, deployment).await?;

    let services = applier.unwanted(&stores.services, &kept_services);
    let sets = applier.unwanted(&stores.sets, &kept_sets);
    let disruptions = applier.unwanted(&stores.disruptions, &kept_disruptions);
    let passwords = passwords(ctx, plan);
    if services.len() + sets.len() + disruptions.len() + passwords.len() > 0 {
        confirm(ctx, hub).await?;
        applier.remove(&sets).await?;
        applier.remove(&services).await?;
        applier.remove(&disruptions).await?;
        applier.remove(&passwords).await?;
    }
    Ok(Outcome { deployment })
}

/// The passwords of servers that are no longer managed.
fn passwords(ctx: &Context, plan: &Plan) -> Vec<Arc<Secret>> {
    let names = &plan.names;
    let given = |wiring: &Wiring| matches!(wiring, Wiring::Given { .. });
    let parts = [
        (Part::Redis, given(&plan.redis)),
        (Part::Postgres, given(&plan.postgres)),
    ];
    let unwanted = parts.into_iter().filter(|(_, given)| *given).filter_map(|(part, _)| {
        let seen = ctx.stores.secret(&names.namespace, &names.server(part))?;
        let ours = is_owned_by(&seen.metadata, &names.uid) && seen.metadata.deletion_timestamp.is_none();
        ours.then(|| {
            Arc::new(Secret {
                metadata: seen.metadata.clone(),
                ..Secret::default()
            })
        })
    });
    unwanted.collect()
}

/// The Hub as the API server has it now is the one that the plan was made of.
async fn confirm(ctx: &Context, hub: &Hub) -> Result<(), Error> {
    let namespace = hub.namespace().unwrap_or_default();
    let now = ctx.kubernetes.get::<Hub>(&namespace, &hub.name_any()).await?;
    let same = now.is_some_and(|now| now.uid() == hub.uid() && now.metadata.generation == hub.metadata.generation);
    if same { Ok(()) } else { Err(Error::Stale) }
}
