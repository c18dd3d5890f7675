//! The Secrets of managed servers: a password, and the URL that contains it.
//!
//! Invariants
//! - Redis takes a new password with a restart, so one is made if there is none. The data of a Postgres are tied to one
//!   password for ever: none is made next to existing data.
//! - For a Postgres, a Secret that somebody made by hand is adopted if it fits and nothing owns it.

use alkhub_config::address::{POSTGRES_PORT, REDIS_PORT};
use alkhub_crds::Hub;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;

use super::seen;
use crate::context::Context;
use crate::error::Error;
use crate::hub::auths::Auth;
use crate::hub::validate::Wiring;
use crate::names::{ObjectNames, Part, digest};
use crate::secrets::generated::{self, Adoption, Texts};

/// Keys in the Secrets.
pub(crate) const PASSWORD: &str = "password";
pub(crate) const URL: &str = "url";
pub(crate) const REDIS_CONF: &str = "redis.conf";

/// User and database of a managed Postgres.
pub(crate) const DATABASE: &str = "alkhub";

/// Digest of a server's Secret, which changes when the Secret is made anew or edited. `None`: the server is not
/// managed.
pub(super) async fn ensure(
    ctx: &Context,
    hub: &Hub,
    (part, wiring): (Part, &Wiring),
    auth: &Auth,
) -> Result<Option<String>, Error> {
    let Wiring::Managed(storage) = wiring else {
        return Ok(None);
    };
    let names = ObjectNames::of(hub);
    let meta = names.meta(names.server(part), part);
    let known = format!("{}/{}", names.uid, names.server(part));
    let there = seen(ctx, &names, &meta);
    let version = there
        .as_ref()
        .and_then(|seen| seen.metadata.resource_version.as_deref());
    if let Some(known) = ctx.auths.of(&known, version) {
        return Ok(Some(known.digest));
    }
    let secret = if part == Part::Postgres && has_data(ctx, hub, storage.ephemeral == Some(true)) {
        // The API server is asked: a Secret that the cache still has may be gone.
        if ctx
            .kubernetes
            .get::<Secret>(&names.namespace, &names.server(part))
            .await?
            .is_none()
        {
            return Err(Error::Lost {
                name: names.server(part),
                namespace: names.namespace,
                user: DATABASE,
            });
        }
        generated::ensure(&ctx.kubernetes, meta, &names.uid, Adoption::Fits(fits), Texts::new).await?
    } else {
        let texts = || match part {
            Part::Redis => redis(&names, &generated::hexadecimal()),
            Part::Hub | Part::Postgres => postgres(&names, &generated::hexadecimal()),
        };
        generated::ensure(&ctx.kubernetes, meta, &names.uid, Adoption::Owned, texts).await?
    };
    let digest = digest_of(&secret, &auth.salt);
    let kept = Auth {
        digest: digest.clone(),
        salt: String::new(),
    };
    ctx.auths
        .keep(&known, &secret.resource_version().unwrap_or_default(), kept);
    Ok(Some(digest))
}

/// Whether the managed Postgres has data that are tied to a password. Data in a pod alone are gone with its
/// StatefulSet.
fn has_data(ctx: &Context, hub: &Hub, is_ephemeral: bool) -> bool {
    let names = ObjectNames::of(hub);
    let set = ObjectRef::new(&names.server(Part::Postgres)).within(&names.namespace);
    let served = hub
        .status
        .as_ref()
        .is_some_and(|status| status.postgres_image.is_some());
    served && (!is_ephemeral || ctx.stores.sets.get(&set).is_some())
}

/// Salted with something that only the operator and the hubs know: otherwise a password that a person chose could be
/// guessed from its digest.
fn digest_of(secret: &Secret, salt: &str) -> String {
    let uid = secret.uid().unwrap_or_default();
    let texts = [URL, REDIS_CONF].map(|key| generated::text(secret, key).unwrap_or_default());
    digest(&[
        salt.as_bytes(),
        uid.as_bytes(),
        texts[0].as_bytes(),
        texts[1].as_bytes(),
    ])[..16]
        .to_owned()
}

/// Whether a Secret has what the Postgres of its name needs: both keys, and a URL that leads there.
fn fits(secret: &Secret) -> bool {
    let text = |key| generated::text(secret, key);
    let (Some(password), Some(url)) = (text(PASSWORD), text(URL)) else {
        return false;
    };
    let host = format!("{}.{}.svc", secret.name_any(), secret.namespace().unwrap_or_default());
    !password.is_empty() && url.trim() == url_of(&host, password.trim())
}

fn redis(names: &ObjectNames, password: &str) -> Texts {
    let url = format!(
        "redis://:{password}@{}.{}.svc:{REDIS_PORT}",
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

fn postgres(names: &ObjectNames, password: &str) -> Texts {
    let host = format!("{}.{}.svc", names.server(Part::Postgres), names.namespace);
    Texts::from([
        (PASSWORD.to_owned(), password.to_owned()),
        (URL.to_owned(), url_of(&host, password)),
    ])
}

fn url_of(host: &str, password: &str) -> String {
    format!("postgres://{DATABASE}:{password}@{host}:{POSTGRES_PORT}/{DATABASE}")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;
    use crate::secrets::server_address::ServerAddress;
    use crate::secrets::{Fact, SecretFormat};

    fn names() -> ObjectNames {
        ObjectNames {
            namespace: "team".to_owned(),
            hub: "demo".to_owned(),
            uid: "u".to_owned(),
        }
    }

    fn secret(uid: &str, texts: Texts) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some("demo-postgres".to_owned());
        secret.metadata.namespace = Some("team".to_owned());
        secret.metadata.uid = Some(uid.to_owned());
        let texts = texts
            .into_iter()
            .map(|(key, text)| (key, ByteString(text.into_bytes())));
        secret.data = Some(texts.collect());
        secret
    }

    #[test]
    fn the_urls_of_managed_servers_name_their_services() {
        let at = |url: &str, format| Fact::of(url.as_bytes(), format, "other").server;

        let redis = at(&redis(&names(), "p")[URL], SecretFormat::Redis);
        let postgres = at(&postgres(&names(), "p")[URL], SecretFormat::Postgres);

        assert_eq!(redis, Ok(Some(ServerAddress::managed("demo-redis", "team", 6379))));
        assert_eq!(
            postgres,
            Ok(Some(ServerAddress::managed("demo-postgres", "team", 5432)))
        );
    }

    #[test]
    fn a_secret_that_was_made_anew_or_edited_has_another_digest_and_a_marked_one_has_not() {
        let of = |uid: &str, password: &str| digest_of(&secret(uid, redis(&names(), password)), "salt");
        let mut marked = secret("a", redis(&names(), "p"));
        marked.metadata.resource_version = Some("2".to_owned());

        assert_eq!(of("a", "p"), digest_of(&marked, "salt"));
        assert_ne!(of("a", "p"), of("b", "p"));
        assert_ne!(of("a", "p"), of("a", "q"));
        assert_ne!(of("a", "p"), digest_of(&secret("a", redis(&names(), "p")), "other"));
    }

    #[test]
    fn a_secret_by_hand_fits_a_postgres_when_its_url_leads_there_with_its_password() {
        let texts = |password: &str, url: &str| {
            let texts = [(PASSWORD, password), (URL, url)];
            Texts::from(texts.map(|(key, text)| (key.to_owned(), text.to_owned())))
        };
        let right = "postgres://alkhub:new@demo-postgres.team.svc:5432/alkhub";

        assert!(fits(&secret("a", postgres(&names(), "p"))));
        assert!(fits(&secret("a", texts("new\n", &format!("{right}\n")))));
        assert!(!fits(&secret("a", texts("old", right))));
        assert!(!fits(&secret("a", texts("new", &right.replace("demo-", "other-")))));
        assert!(!fits(&secret("a", Texts::new())));
    }
}
