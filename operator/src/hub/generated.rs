//! The Secrets of a Hub that are made once: the hash's key and the first admin key, passwords of managed servers.

use std::collections::HashMap;
use std::sync::Arc;

use alkhub_crds::Hub;
use alkhub_crds::hub::WhenDeleted;
use alkhub_protocol::ApiKey;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use parking_lot::Mutex;

use crate::context::Context;
use crate::error::Error;
use crate::hub::validate::{Plan, Wiring};
use crate::names::{KEPT_FOR, Names, Part, digest, is_kept_for};
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

/// What the pods read of the Secrets: when it becomes another, the pods must restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generated {
    /// Digest of both keys.
    pub(crate) auth: String,
    /// The uids: a Secret that was made anew holds another password.
    pub(crate) redis: Option<String>,
    pub(crate) postgres: Option<String>,
}

/// Digests of the keys of each Hub, by the version of its Secret: the content is read when that is another.
#[derive(Debug, Default)]
pub(crate) struct Auths(Mutex<HashMap<String, (String, String)>>);

pub(crate) async fn ensure(ctx: &Context, hub: &Hub, plan: &Plan) -> Result<Generated, Error> {
    let names = &plan.names;
    let redis = || redis_texts(names, &generated::hexadecimal());
    let postgres = || postgres_texts(names, &generated::hexadecimal());
    let password = |part| names.meta(names.server(part), part);
    Ok(Generated {
        auth: auth(ctx, names, auth_meta(hub, names)).await?,
        redis: match &plan.redis {
            Wiring::Managed(_) => Some(one(ctx, names, password(Part::Redis), redis).await?),
            Wiring::Given { .. } => None,
        },
        postgres: match &plan.postgres {
            Wiring::Managed(_) => Some(one(ctx, names, password(Part::Postgres), postgres).await?),
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

/// Digest of the hash key and the admin key, which somebody may have edited.
async fn auth(ctx: &Context, names: &Names, meta: ObjectMeta) -> Result<String, Error> {
    let version = seen(ctx, names, &meta).and_then(|seen| seen.metadata.resource_version.clone());
    if let Some(digest) = ctx.auths.of(&names.uid, version.as_deref()) {
        return Ok(digest);
    }
    let secret = generated::ensure(&ctx.kubernetes, meta, &names.uid, Claim::Kept(is_whole), auth_texts).await?;
    if !is_whole(&secret) {
        return Err(Error::Broken {
            name: names.auth(),
            why: "`hash-key` must be 64 hexadecimal digits and `admin-key` a key that begins with `alk_`",
        });
    }
    let texts = [HASH_KEY, ADMIN_KEY].map(|key| generated::text(&secret, key).unwrap_or_default());
    let digest = digest(&[texts[0].as_bytes(), texts[1].as_bytes()]);
    ctx.auths
        .keep(&names.uid, &secret.resource_version().unwrap_or_default(), &digest);
    Ok(digest)
}

/// The metadata of a Secret of the Hub's that is there as it should be.
fn seen(ctx: &Context, names: &Names, meta: &ObjectMeta) -> Option<Arc<PartialObjectMeta<Secret>>> {
    let name = meta.name.as_deref().unwrap_or_default();
    let seen = ctx.stores.secret(&names.namespace, name)?;
    let well = is_kept_for(&seen.metadata, &names.uid)
        && generated::is_marked(&seen.metadata, meta)
        && seen.metadata.deletion_timestamp.is_none();
    well.then_some(seen)
}

/// The uid of the Secret of a managed server; the API is asked only when the cache does not have it as it should be.
async fn one(ctx: &Context, names: &Names, meta: ObjectMeta, texts: impl FnOnce() -> Texts) -> Result<String, Error> {
    if let Some(seen) = seen(ctx, names, &meta) {
        return Ok(seen.uid().unwrap_or_default());
    }
    let secret = generated::ensure(&ctx.kubernetes, meta, &names.uid, Claim::Owned, texts).await?;
    Ok(secret.uid().unwrap_or_default())
}

// === impl Auths ===

impl Auths {
    fn of(&self, hub_uid: &str, version: Option<&str>) -> Option<String> {
        let known = self.0.lock();
        let (seen, digest) = known.get(hub_uid)?;
        (Some(seen.as_str()) == version).then(|| digest.clone())
    }

    fn keep(&self, hub_uid: &str, version: &str, digest: &str) {
        let mut known = self.0.lock();
        known.insert(hub_uid.to_owned(), (version.to_owned(), digest.to_owned()));
    }

    /// Forgets Hubs that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

/// Whether a restored Secret holds both keys as the hub reads them: else a hub would start with half of them.
fn is_whole(secret: &Secret) -> bool {
    let text = |key| generated::text(secret, key).unwrap_or_default();
    let (hash_key, admin_key) = (text(HASH_KEY), text(ADMIN_KEY));
    let (hash_key, admin_key) = (hash_key.trim(), admin_key.trim());
    hash_key.len() == 64 && hash_key.bytes().all(|b| b.is_ascii_hexdigit()) && ApiKey::parse(admin_key).is_ok()
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
    use crate::secrets::{Fact, Form};

    #[test]
    fn the_urls_of_managed_servers_name_their_services() {
        let names = Names {
            namespace: "team".to_owned(),
            hub: "demo".to_owned(),
            uid: "u".to_owned(),
        };
        let at = |url: &str, form| Fact::of(url.as_bytes(), form, "other").endpoint;

        let redis = at(&redis_texts(&names, "p")[URL], Form::Redis);
        let postgres = at(&postgres_texts(&names, "p")[URL], Form::Postgres);

        assert_eq!(redis, Ok(Some(Endpoint::managed("demo-redis", "team", 6379))));
        assert_eq!(postgres, Ok(Some(Endpoint::managed("demo-postgres", "team", 5432))));
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
