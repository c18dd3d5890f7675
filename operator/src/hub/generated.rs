//! The Secrets of a Hub that are made once: the hash's key and the first admin key, passwords of managed servers.

use alkhub_crds::Hub;
use alkhub_crds::hub::WhenDeleted;
use alkhub_protocol::ApiKey;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

use crate::context::Context;
use crate::error::Error;
use crate::hub::validate::{Plan, Wiring};
use crate::names::{KEPT_FOR, Names, Part, is_kept_for};
use crate::secrets::generated::{self, Claim, Texts};

/// Keys in the Secret of [`Names::auth`].
pub(crate) const HASH_KEY: &str = "hash-key";
/// The first key with scope `admin`.
pub(crate) const ADMIN_KEY: &str = "admin-key";
/// Keys in the Secrets of managed servers.
pub(crate) const PASSWORD: &str = "password";
pub(crate) const URL: &str = "url";
pub(crate) const REDIS_CONF: &str = "redis.conf";

/// User and database of a managed Postgres.
pub(crate) const DATABASE: &str = "alkhub";

/// The uids of the Secrets: one that was deleted and made anew holds other keys, and the pods must restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generated {
    pub(crate) auth: String,
    pub(crate) redis: Option<String>,
    pub(crate) postgres: Option<String>,
}

pub(crate) async fn ensure(ctx: &Context, hub: &Hub, plan: &Plan) -> Result<Generated, Error> {
    let names = &plan.names;
    let redis = || redis_texts(names, &generated::hexadecimal());
    let postgres = || postgres_texts(names, &generated::hexadecimal());
    let password = |part| names.meta(names.server(part), part);
    Ok(Generated {
        auth: one(ctx, names, auth_meta(hub, names), Claim::Kept(is_whole), auth_texts).await?,
        redis: match &plan.redis {
            Wiring::Managed(_) => Some(one(ctx, names, password(Part::Redis), Claim::Owned, redis).await?),
            Wiring::Given { .. } => None,
        },
        postgres: match &plan.postgres {
            Wiring::Managed(_) => Some(one(ctx, names, password(Part::Postgres), Claim::Owned, postgres).await?),
            Wiring::Given { .. } => None,
        },
    })
}

/// The Secret with the keys outlives its Hub unless the Hub says otherwise: without it no key in the schema opens
/// anything, and the schema outlives the Hub, too.
fn auth_meta(hub: &Hub, names: &Names) -> ObjectMeta {
    let meta = names.meta(names.auth(), Part::Hub);
    let auth = hub.spec.auth.as_ref();
    match auth.map(|auth| auth.when_deleted).unwrap_or_default() {
        WhenDeleted::Delete => meta,
        WhenDeleted::Retain => ObjectMeta {
            owner_references: None,
            annotations: Some([(KEPT_FOR.to_owned(), names.uid.clone())].into()),
            ..meta
        },
    }
}

/// The uid of one Secret; the API is asked only when the cache does not have it as it should be.
async fn one(
    ctx: &Context,
    names: &Names,
    meta: ObjectMeta,
    claim: Claim,
    texts: impl FnOnce() -> Texts,
) -> Result<String, Error> {
    let name = meta.name.clone().unwrap_or_default();
    if let Some(seen) = ctx.stores.secret(&names.namespace, &name)
        && is_kept_for(&seen.metadata, &names.uid)
        && generated::is_marked(&seen.metadata, &meta)
        && seen.metadata.deletion_timestamp.is_none()
    {
        return Ok(seen.uid().unwrap_or_default());
    }
    let secret = generated::ensure(&ctx.kubernetes, meta, &names.uid, claim, texts).await?;
    Ok(secret.uid().unwrap_or_default())
}

/// Whether a restored Secret holds both keys as the hub reads them: else a hub would start with half of them.
fn is_whole(secret: &Secret) -> bool {
    let hash_key = generated::text(secret, HASH_KEY).unwrap_or_default();
    let admin_key = generated::text(secret, ADMIN_KEY).unwrap_or_default();
    hash_key.len() == 64 && hash_key.bytes().all(|b| b.is_ascii_hexdigit()) && ApiKey::parse(&admin_key).is_ok()
}

fn auth_texts() -> Texts {
    let admin = generated::key().expose().to_owned();
    Texts::from([
        (HASH_KEY.to_owned(), generated::hexadecimal()),
        (ADMIN_KEY.to_owned(), admin),
    ])
}

fn redis_texts(names: &Names, password: &str) -> Texts {
    let url = format!(
        "redis://:{password}@{}.{}.svc:6379",
        names.server(Part::Redis),
        names.namespace
    );
    let conf = format!("dir /data\nrequirepass {password}\nsave 60 1\nmaxmemory-policy noeviction\n");
    Texts::from([
        (PASSWORD.to_owned(), password.to_owned()),
        (URL.to_owned(), url),
        (REDIS_CONF.to_owned(), conf),
    ])
}

fn postgres_texts(names: &Names, password: &str) -> Texts {
    let server = names.server(Part::Postgres);
    let url = format!(
        "postgres://{DATABASE}:{password}@{server}.{}.svc:5432/{DATABASE}",
        names.namespace
    );
    Texts::from([(PASSWORD.to_owned(), password.to_owned()), (URL.to_owned(), url)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::endpoint::Endpoint;

    #[test]
    fn the_urls_of_managed_servers_name_their_services() {
        let names = Names {
            namespace: "team".to_owned(),
            hub: "demo".to_owned(),
            uid: "u".to_owned(),
        };
        let redis = Endpoint::parse(&redis_texts(&names, "p")[URL], "other").expect("a URL");
        let postgres = Endpoint::parse(&postgres_texts(&names, "p")[URL], "other").expect("a URL");

        assert_eq!(redis, Endpoint::managed("redis", "demo-redis", "team", 6379));
        assert_eq!(postgres, Endpoint::managed("postgres", "demo-postgres", "team", 5432));
    }

    #[test]
    fn the_keys_outlive_their_hub_unless_it_says_otherwise() {
        let mut hub = crate::hub::testing::hub(crate::hub::testing::given());
        let names = Names::of(&hub);

        let kept = auth_meta(&hub, &names);
        hub.spec.auth = Some(alkhub_crds::hub::AuthSpec {
            when_deleted: WhenDeleted::Delete,
        });
        let owned = auth_meta(&hub, &names);

        assert!(kept.owner_references.is_none() && is_kept_for(&kept, &names.uid));
        assert!(owned.owner_references.is_some() && owned.annotations.is_none());
    }

    #[test]
    fn the_hash_key_is_what_the_hub_reads() {
        let texts = auth_texts();

        assert!(texts[HASH_KEY].len() == 64 && texts[HASH_KEY].bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(alkhub_protocol::ApiKey::parse(&texts[ADMIN_KEY]).is_ok());
    }
}
