//! Reads what a Hub's plan depends on.

use std::sync::Arc;

use alkhub_config::ChannelPrefix;
use alkhub_config::address::REDIS_PORT;
use alkhub_crds::Hub;
use alkhub_crds::hub::SecretKey;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::context::Context;
use crate::error::Error;
use crate::hub::spec_error::prefix_of;
use crate::kubernetes::Going as _;
use crate::names::{ObjectNames, Part};
use crate::secrets::server_address::ServerAddress;
use crate::secrets::{Fact, Location, SecretFormat};

/// What was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Whether a Secret that the Hub names has just changed, so that others may follow.
    pub(crate) is_changing: bool,
    /// The operator's default images.
    pub(crate) images: Images,
    /// Where Redis is.
    pub(crate) redis_server: Option<ServerAddress>,
    /// Values of the Secrets that the Hub names; absent if these are missing.
    pub(crate) redis: Values,
    pub(crate) postgres: Values,
    /// Other Hubs whose prefixes overlap and that use the same Redis.
    pub(crate) rivals: Vec<Rival>,
}

/// The images that the operator was started with.
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
    pub(crate) rank: Rank,
}

/// Decides which of two Hubs gets a prefix: the lesser. The one that has it keeps it; otherwise the older one gets it,
/// then the one with the lesser uid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    is_new: bool,
    age: (Option<Timestamp>, String),
}

// === impl Rank ===

impl Rank {
    /// The rank of a Hub for a prefix at a Redis. A Hub holds the prefix there only if its status says that it was
    /// carried out with both: an older Hub that starts to name another Hub's server or prefix is no incumbent there.
    pub(crate) fn of(hub: &Hub, prefix: &ChannelPrefix, redis: Option<&ServerAddress>) -> Self {
        let has = hub.status.as_ref().is_some_and(|status| {
            status.channel_prefix.as_deref() == Some(prefix.as_str())
                && status.redis_address.as_deref() == redis.map(|redis| redis.address.as_str())
        });
        Self {
            is_new: !has,
            age: (
                hub.creation_timestamp().map(|time| time.0),
                hub.uid().unwrap_or_default(),
            ),
        }
    }
}

pub(crate) async fn observe(ctx: &Context, hub: &Hub) -> Result<Observed, Error> {
    let names = ObjectNames::of(hub);
    let place = |reference: &Option<SecretKey>, key, format| {
        let reference = reference.as_ref()?;
        Some((Location::of(&names.namespace, reference, key), format))
    };
    let (redis, postgres) = (&hub.spec.redis, &hub.spec.postgres);
    let places = [
        place(&redis.secret_ref, "url", SecretFormat::Redis),
        place(&redis.ca_secret_ref, "ca.crt", SecretFormat::Authorities),
        place(&postgres.secret_ref, "url", SecretFormat::Postgres),
        place(&postgres.ca_secret_ref, "ca.crt", SecretFormat::Authorities),
    ];
    let ([redis, redis_ca, postgres, postgres_ca], is_changing) = ctx.facts.read_all(&ctx.kubernetes, &places).await?;
    let server = redis.as_ref().and_then(server).or_else(|| managed(&names, hub));
    let rivals = match &server {
        Some(server) => rivals(ctx, hub, server).await?,
        None => Vec::new(),
    };
    Ok(Observed {
        is_changing,
        images: Images {
            hub: ctx.options.hub_image.clone(),
            redis: ctx.options.redis_image.clone(),
            postgres: ctx.options.postgres_image.clone(),
        },
        redis_server: server,
        redis: Values {
            url: redis,
            ca: redis_ca,
        },
        postgres: Values {
            url: postgres,
            ca: postgres_ca,
        },
        rivals,
    })
}

/// The server, if the value is a valid URL.
fn server(fact: &Fact) -> Option<ServerAddress> {
    fact.server.as_ref().ok().cloned().flatten()
}

/// Only Hubs whose prefixes overlap are asked for their Redis; by default there are none.
async fn rivals(ctx: &Context, hub: &Hub, own: &ServerAddress) -> Result<Vec<Rival>, Error> {
    let Ok(prefix) = prefix_of(hub) else {
        return Ok(Vec::new());
    };
    let mut rivals = Vec::new();
    for other in ctx.stores.hubs.state() {
        if other.uid() == hub.uid() || other.meta_is_going() {
            continue;
        }
        let Some(theirs) = prefixes(&other).into_iter().find(|theirs| theirs.overlaps(&prefix)) else {
            continue;
        };
        if redis_of(ctx, &other)
            .await?
            .is_some_and(|redis| redis.is_server_of(own))
        {
            let name = format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any());
            let rank = Rank::of(&other, &theirs, Some(own));
            rivals.push(Rival {
                name,
                prefix: theirs,
                rank,
            });
        }
    }
    Ok(rivals)
}

/// The prefix that a Hub runs with, and the one that it asks for.
fn prefixes(hub: &Hub) -> Vec<ChannelPrefix> {
    let has = hub.status.as_ref().and_then(|status| status.channel_prefix.as_ref());
    let has = has.and_then(|prefix| prefix.parse().ok());
    has.into_iter().chain(prefix_of(hub).ok()).collect()
}

async fn redis_of(ctx: &Context, hub: &Arc<Hub>) -> Result<Option<ServerAddress>, Error> {
    let names = ObjectNames::of(hub);
    match &hub.spec.redis.secret_ref {
        Some(reference) => {
            let fact = ctx
                .facts
                .read(
                    &ctx.kubernetes,
                    &Location::of(&names.namespace, reference, "url"),
                    SecretFormat::Redis,
                )
                .await?;
            Ok(fact.as_ref().and_then(server))
        }
        None => Ok(managed(&names, hub)),
    }
}

fn managed(names: &ObjectNames, hub: &Hub) -> Option<ServerAddress> {
    let service = names.server(Part::Redis);
    hub.spec
        .redis
        .is_managed()
        .then(|| ServerAddress::managed(&service, &names.namespace, REDIS_PORT))
}
