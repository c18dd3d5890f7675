//! The Secrets of a Hub that are made once: the hash key and the first admin key, and passwords of managed servers.

mod servers;

use std::sync::Arc;

use alkhub_crds::Hub;
use alkhub_crds::hub::WhenDeleted;
use alkhub_protocol::ApiKey;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use secrecy::{ExposeSecret as _, SecretString};

pub(crate) use self::servers::{DATABASE, PASSWORD, REDIS_CONF, URL};
use crate::context::Context;
use crate::error::Error;
use crate::hub::auths::Auth;
use crate::hub::validate::Plan;
use crate::names::{KEPT_FOR, ObjectNames, Part, digest, is_kept_for};
use crate::secrets::generated::{self, Adoption, Texts};

/// Keys in the Secret of [`ObjectNames::auth`].
pub(crate) const HASH_KEY: &str = "hash-key";
/// The first key with scope `admin`; [`admin_key`] reads it.
pub(crate) const ADMIN_KEY: &str = "admin-key";

/// What the pods read from the Secrets: when it changes, the pods must restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generated {
    /// Digest of both keys.
    pub(crate) auth: String,
    /// The salt for digests of passwords that people chose.
    pub(crate) salt: String,
    /// Digests of the Secrets of managed servers; they change with the Secret and with the password in it.
    pub(crate) redis: Option<String>,
    pub(crate) postgres: Option<String>,
}

pub(crate) async fn ensure(ctx: &Context, hub: &Hub, plan: &Plan) -> Result<Generated, Error> {
    let names = &plan.names;
    let auth = auth(ctx, names, auth_meta(hub, names)).await?;
    Ok(Generated {
        redis: servers::ensure(ctx, hub, (Part::Redis, &plan.redis), &auth).await?,
        postgres: servers::ensure(ctx, hub, (Part::Postgres, &plan.postgres), &auth).await?,
        auth: auth.digest,
        salt: auth.salt,
    })
}

/// The admin key in a Hub's Secret, without the newline that an editor may add; `None`: there is none.
pub(crate) fn admin_key(secret: &Secret) -> Option<SecretString> {
    let text = generated::text(secret, ADMIN_KEY)?;
    let key = text.trim();
    (!key.is_empty()).then(|| key.into())
}

/// The Secret with the keys outlives its Hub unless the Hub says otherwise: without it, no key in the schema opens
/// anything, and the schema outlives the Hub too.
fn auth_meta(hub: &Hub, names: &ObjectNames) -> ObjectMeta {
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

/// Reads the hash key and the admin key, which somebody may have edited.
async fn auth(ctx: &Context, names: &ObjectNames, meta: ObjectMeta) -> Result<Auth, Error> {
    let version = seen(ctx, names, &meta).and_then(|seen| seen.metadata.resource_version.clone());
    if let Some(known) = ctx.auths.of(&names.uid, version.as_deref()) {
        return Ok(known);
    }
    let secret = generated::ensure(&ctx.kubernetes, meta, &names.uid, Adoption::Kept(is_whole), auth_texts).await?;
    if !is_whole(&secret) {
        return Err(Error::Broken {
            name: names.auth(),
            why: "`hash-key` must be 64 hexadecimal digits and `admin-key` a key that begins with `alk_`",
        });
    }
    let texts = [HASH_KEY, ADMIN_KEY].map(|key| generated::text(&secret, key).unwrap_or_default());
    let auth = Auth {
        digest: digest(&[texts[0].as_bytes(), texts[1].as_bytes()]),
        salt: digest(&[b"passwords", texts[0].trim().as_bytes()]),
    };
    ctx.auths
        .keep(&names.uid, &secret.resource_version().unwrap_or_default(), auth.clone());
    Ok(auth)
}

/// The metadata of a Secret of the Hub, if it exists and is as it should be.
fn seen(ctx: &Context, names: &ObjectNames, meta: &ObjectMeta) -> Option<Arc<PartialObjectMeta<Secret>>> {
    let name = meta.name.as_deref().unwrap_or_default();
    let seen = ctx.stores.secret(&names.namespace, name)?;
    let well = is_kept_for(&seen.metadata, &names.uid)
        && generated::is_marked(&seen.metadata, meta)
        && seen.metadata.deletion_timestamp.is_none();
    well.then_some(seen)
}

/// Whether a restored Secret holds both keys as the hub reads them; otherwise a hub would start with half of them.
fn is_whole(secret: &Secret) -> bool {
    let hash_key = generated::text(secret, HASH_KEY).unwrap_or_default();
    let hash_key = hash_key.trim();
    let is_key = |key: SecretString| ApiKey::parse(key.expose_secret()).is_ok();
    hash_key.len() == 64 && hash_key.bytes().all(|b| b.is_ascii_hexdigit()) && admin_key(secret).is_some_and(is_key)
}

fn auth_texts() -> Texts {
    let admin = generated::key().expose().to_owned();
    Texts::from([
        (HASH_KEY.to_owned(), generated::hexadecimal()),
        (ADMIN_KEY.to_owned(), admin),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_key_is_read_without_the_newline_that_an_editor_adds() {
        let secret = |key: &str| -> Secret {
            let hash_key = generated::hexadecimal();
            let texts = [(HASH_KEY, hash_key.as_str()), (ADMIN_KEY, key)];
            let data = texts.map(|(name, text)| (name.to_owned(), k8s_openapi::ByteString(text.as_bytes().to_vec())));
            Secret {
                data: Some(data.into()),
                ..Secret::default()
            }
        };
        let key = generated::key().expose().to_owned();
        let read = |text: &str| admin_key(&secret(text)).map(|key| key.expose_secret().to_owned());

        assert_eq!(read(&format!("{key}\n")), Some(key.clone()));
        assert!(is_whole(&secret(&format!("{key}\r\n"))));
        assert_eq!(read("\n"), None, "an empty one is none");
    }

    #[test]
    fn the_keys_outlive_their_hub_unless_it_says_otherwise() {
        let mut hub = crate::hub::testing::hub(crate::hub::testing::given());
        let names = ObjectNames::of(&hub);

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
