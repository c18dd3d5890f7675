//! Reads what a Hub's plan depends on.

use std::sync::Arc;

use alkhub_config::ChannelPrefix;
use alkhub_crds::Hub;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;

use crate::context::Context;
use crate::error::Error;
use crate::hub::validate::prefix_of;
use crate::leading::Going as _;
use crate::names::{Names, Part, is_owned_by};
use crate::secrets::endpoint::Endpoint;
use crate::secrets::{Fact, Location};

/// What was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Image of the Deployment that is there.
    pub(crate) running_image: Option<String>,
    /// The operator's images.
    pub(crate) images: Images,
    /// Values of the Secrets that the Hub names; absent when they are missing.
    pub(crate) redis: Values,
    pub(crate) postgres: Values,
    /// Other Hubs whose prefixes overlap and that use the same Redis.
    pub(crate) rivals: Vec<Rival>,
}

/// Images that the operator was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Images {
    pub(crate) hub: String,
    pub(crate) redis: String,
    pub(crate) postgres: String,
}

/// The Secrets of one backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    pub(crate) url: Option<Fact>,
    pub(crate) ca: Option<Fact>,
}

/// Another Hub in the same Redis with an overlapping prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rival {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) prefix: ChannelPrefix,
    /// Creation and uid: the lesser one stays.
    pub(crate) age: (Option<Timestamp>, String),
}

pub(crate) async fn observe(ctx: &Context, hub: &Hub) -> Result<Observed, Error> {
    let names = Names::of(hub);
    let redis = values(ctx, &names.namespace, &hub.spec.redis).await?;
    let postgres = values(ctx, &names.namespace, &hub.spec.postgres).await?;
    let rivals = rivals(
        ctx,
        hub,
        &names,
        redis.url.as_ref().and_then(|fact| fact.endpoint.as_ref()),
    )
    .await?;
    let deployment = ctx
        .stores
        .deployments
        .get(&ObjectRef::new(&names.main()).within(&names.namespace));
    Ok(Observed {
        running_image: deployment
            .filter(|d| is_owned_by(&d.metadata, &names.uid))
            .and_then(|d| image(&d)),
        images: Images {
            hub: ctx.options.hub_image.clone(),
            redis: ctx.options.redis_image.clone(),
            postgres: ctx.options.postgres_image.clone(),
        },
        redis,
        postgres,
        rivals,
    })
}

/// Creation and uid of a Hub.
pub(crate) fn age(hub: &Hub) -> (Option<Timestamp>, String) {
    (
        hub.creation_timestamp().map(|time| time.0),
        hub.uid().unwrap_or_default(),
    )
}

async fn values(ctx: &Context, namespace: &str, backend: &alkhub_crds::hub::Backend) -> Result<Values, Error> {
    let mut values = Values::default();
    if let Some(reference) = &backend.secret_ref {
        values.url = ctx
            .facts
            .read(&ctx.kubernetes, &Location::of(namespace, reference, "url"))
            .await?;
    }
    if let Some(reference) = &backend.ca_secret_ref {
        values.ca = ctx
            .facts
            .read(&ctx.kubernetes, &Location::of(namespace, reference, "ca.crt"))
            .await?;
    }
    Ok(values)
}

/// Only Hubs whose prefixes overlap are asked for their Redis; by default there is none.
async fn rivals(ctx: &Context, hub: &Hub, names: &Names, given: Option<&Endpoint>) -> Result<Vec<Rival>, Error> {
    let Ok(prefix) = prefix_of(hub) else {
        return Ok(Vec::new());
    };
    let Some(own) = given.cloned().or_else(|| managed(names, hub)) else {
        return Ok(Vec::new());
    };
    let mut rivals = Vec::new();
    for other in ctx.stores.hubs.state() {
        let Ok(theirs) = prefix_of(&other) else { continue };
        if other.uid() == hub.uid() || other.meta_is_going() || !theirs.overlaps(&prefix) {
            continue;
        }
        if redis_of(ctx, &other)
            .await?
            .is_some_and(|redis| redis.is_server_of(&own))
        {
            let name = format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any());
            rivals.push(Rival {
                name,
                prefix: theirs,
                age: age(&other),
            });
        }
    }
    Ok(rivals)
}

async fn redis_of(ctx: &Context, hub: &Arc<Hub>) -> Result<Option<Endpoint>, Error> {
    let names = Names::of(hub);
    match &hub.spec.redis.secret_ref {
        Some(reference) => {
            let fact = ctx
                .facts
                .read(&ctx.kubernetes, &Location::of(&names.namespace, reference, "url"))
                .await?;
            Ok(fact.and_then(|fact| fact.endpoint))
        }
        None => Ok(managed(&names, hub)),
    }
}

fn managed(names: &Names, hub: &Hub) -> Option<Endpoint> {
    let service = names.server(Part::Redis);
    hub.spec
        .redis
        .is_managed()
        .then(|| Endpoint::managed("redis", &service, &names.namespace, 6379))
}

fn image(deployment: &Deployment) -> Option<String> {
    deployment
        .spec
        .as_ref()?
        .template
        .spec
        .as_ref()?
        .containers
        .first()?
        .image
        .clone()
}
