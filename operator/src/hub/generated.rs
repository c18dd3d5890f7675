//! The Secrets of a Hub that are made once: the hash's key and the first admin key, passwords of managed servers.

use alkhub_protocol::ApiKey;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;

use crate::context::Context;
use crate::error::Error;
use crate::hub::validate::{Plan, Wiring};
use crate::names::{Names, Part, is_owned_by};
use crate::secrets::generated::{self, Stray, Texts};

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

pub(crate) async fn ensure(ctx: &Context, plan: &Plan) -> Result<Generated, Error> {
    let names = &plan.names;
    let redis = || redis_texts(names, &generated::hexadecimal());
    let postgres = || postgres_texts(names, &generated::hexadecimal());
    Ok(Generated {
        auth: one(ctx, names, Part::Hub, Stray::Adopt(is_whole), auth_texts).await?,
        redis: match &plan.redis {
            Wiring::Managed(_) => Some(one(ctx, names, Part::Redis, Stray::Refuse, redis).await?),
            Wiring::Given { .. } => None,
        },
        postgres: match &plan.postgres {
            Wiring::Managed(_) => Some(one(ctx, names, Part::Postgres, Stray::Refuse, postgres).await?),
            Wiring::Given { .. } => None,
        },
    })
}

/// The uid of one Secret; the API is asked only when the cache does not have it.
async fn one(
    ctx: &Context,
    names: &Names,
    part: Part,
    stray: Stray,
    texts: impl FnOnce() -> Texts,
) -> Result<String, Error> {
    let name = match part {
        Part::Hub => names.auth(),
        Part::Redis | Part::Postgres => names.server(part),
    };
    if let Some(seen) = ctx.stores.secret(&names.namespace, &name)
        && is_owned_by(&seen.metadata, &names.uid)
        && seen.metadata.deletion_timestamp.is_none()
    {
        return Ok(seen.uid().unwrap_or_default());
    }
    let secret = generated::ensure(&ctx.kubernetes, names.meta(name, part), &names.uid, stray, texts).await?;
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
    fn the_hash_key_is_what_the_hub_reads() {
        let texts = auth_texts();

        assert!(texts[HASH_KEY].len() == 64 && texts[HASH_KEY].bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(alkhub_protocol::ApiKey::parse(&texts[ADMIN_KEY]).is_ok());
    }
}
