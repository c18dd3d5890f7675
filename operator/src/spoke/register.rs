//! Mints a Spoke's key once and declares the Spoke at its hub.
//!
//! Invariants
//! - The finalizer is there before anything exists that it must end.
//! - A key that is in the Secret is used, so a lost answer does not mint a second one. It is replaced only if it is
//!   broken, or if the hub reports another key in force, or none: a hub never brings an ended key back.

use alkhub_crds::Spoke;
use alkhub_protocol::ApiKey;
use alkhub_protocol::admin::SpokePut;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use serde_json::json;

use super::observe::Observed;
use super::validate::Declaration;
use crate::admin::ReportedSpoke;
use crate::apply::with_identity;
use crate::context::Context;
use crate::error::Error;
use crate::hub;
use crate::names::{FINALIZER, labels, owner};
use crate::secrets::generated::{self, Adoption, Texts};

/// Keys of the Secret: names that a program reads, and names for `envFrom`.
const TOKEN: [&str; 2] = ["token", "ALKHUB_TOKEN"];
const URL: [&str; 2] = ["url", "ALKHUB_URL"];

/// What the Secret is among the objects of a Hub.
const COMPONENT: &str = "spoke";

/// A Spoke whose key is in its Secret and known to its hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Registered {
    /// Digest of what was declared.
    pub(super) declared: String,
    /// First characters of the key.
    pub(super) key_hint: Option<String>,
}

pub(super) async fn register(
    ctx: &Context,
    spoke: &Spoke,
    observed: &Observed,
    declaration: &Declaration,
) -> Result<Registered, Error> {
    if declaration.is_done(spoke, observed) {
        let status = spoke.status.clone().unwrap_or_default();
        return Ok(Registered {
            declared: status.declared.unwrap_or_default(),
            key_hint: status.key_hint,
        });
    }
    hold(ctx, spoke).await?;
    let (mut secret, mut key) = credentials(ctx, spoke, declaration).await?;
    let info = declare(ctx, spoke, declaration, &key).await?;
    if has_ended(&info, &key) {
        tracing::info!(
            spoke.namespace = spoke.namespace(),
            spoke.name = spoke.name_any(),
            key.hint = key.hint(),
            "the key in the Secret has ended at the hub: another one is made"
        );
        key = generated::key();
        secret = write(ctx, spoke, &secret, &texts(&key, &declaration.hub.url())).await?;
        declare(ctx, spoke, declaration, &key).await?;
    }
    let version = secret.metadata.resource_version.unwrap_or_default();
    Ok(Registered {
        declared: declaration.digest(&secret.metadata.uid.unwrap_or_default(), &version),
        key_hint: Some(key.hint().to_owned()),
    })
}

/// Declares the spoke at the hub; returns what the hub has then.
async fn declare(
    ctx: &Context,
    spoke: &Spoke,
    declaration: &Declaration,
    key: &ApiKey,
) -> Result<ReportedSpoke, Error> {
    let put = SpokePut {
        key: Some(key.expose().to_owned()),
        ..declaration.put.clone()
    };
    let door = hub::door(ctx, &declaration.hub, &declaration.key.key)?;
    let place = ctx.in_flight.place(&declaration.hub.uid).await?;
    let pass = ctx.kubernetes.gate().pass()?;
    let info = place.ended(door.put(pass, &spoke.name_any(), &put).await)?;
    ctx.declaration_times.now(&put.uid);
    Ok(info)
}

/// Whether another key of the spoke is in force, or none. A hub that reports no digest reports no hint either.
fn has_ended(info: &ReportedSpoke, key: &ApiKey) -> bool {
    info.declaration_digest.is_some() && info.key_hint.as_deref() != Some(key.hint())
}

/// Adds the finalizer to exactly the Spoke that was seen.
async fn hold(ctx: &Context, spoke: &Spoke) -> Result<(), Error> {
    if spoke.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    let fields = json!({ "metadata": { "name": spoke.name_any(), "finalizers": [FINALIZER] } });
    let patch = with_identity::<Spoke>(&fields, spoke.uid().as_deref());
    ctx.kubernetes
        .apply::<Spoke>(&spoke.namespace().unwrap_or_default(), &spoke.name_any(), &patch)
        .await
        .map(drop)
}

/// The Secret, with a whole key and the right address.
async fn credentials(ctx: &Context, spoke: &Spoke, declaration: &Declaration) -> Result<(Secret, ApiKey), Error> {
    let url = declaration.hub.url();
    let uid = &declaration.put.uid;
    let minted = || texts(&generated::key(), &url);
    let found = generated::ensure(&ctx.kubernetes, meta(spoke, uid), uid, Adoption::Owned, minted).await?;
    let key = TOKEN
        .iter()
        .find_map(|name| ApiKey::parse(generated::text(&found, name)?.trim()).ok());
    // Somebody emptied or broke it: only then is a new key made, replacing exactly what was seen.
    let key = key.unwrap_or_else(generated::key);
    let wanted = texts(&key, &url);
    if wanted
        .iter()
        .all(|(name, text)| generated::text(&found, name).as_ref() == Some(text))
    {
        return Ok((found, key));
    }
    let mended = write(ctx, spoke, &found, &wanted).await?;
    Ok((mended, key))
}

/// Puts texts into exactly the Secret that was seen; whatever else is in it stays.
async fn write(ctx: &Context, spoke: &Spoke, seen: &Secret, texts: &Texts) -> Result<Secret, Error> {
    let fields = json!({ "metadata": { "resourceVersion": seen.metadata.resource_version }, "stringData": texts });
    let namespace = spoke.namespace().unwrap_or_default();
    ctx.kubernetes.merge(&namespace, &spoke.secret_name(), &fields).await
}

fn texts(key: &ApiKey, url: &str) -> Texts {
    let tokens = TOKEN.iter().map(|name| ((*name).to_owned(), key.expose().to_owned()));
    let urls = URL.iter().map(|name| ((*name).to_owned(), url.to_owned()));
    tokens.chain(urls).collect()
}

fn meta(spoke: &Spoke, uid: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(spoke.secret_name()),
        namespace: spoke.namespace(),
        labels: Some(labels(&spoke.spec.hub_ref.name, COMPONENT)),
        owner_references: Some(vec![owner::<Spoke>(&spoke.name_any(), uid)]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_ended_when_the_hub_names_another_or_none_and_an_older_hub_names_nothing() {
        let key = ApiKey::from_entropy([1; 32]);
        let info = |declaration: Option<&str>, hint: Option<&str>| -> ReportedSpoke {
            let info = json!({"name": "builder", "uid": "u", "declarationDigest": declaration, "keyHint": hint});
            serde_json::from_value(info).expect("a spoke")
        };

        assert!(!has_ended(&info(Some("1:x"), Some(key.hint())), &key));
        assert!(has_ended(&info(Some("1:x"), Some("alk_000000")), &key));
        assert!(has_ended(&info(Some("1:x"), None), &key));
        assert!(!has_ended(&info(None, None), &key));
    }
}
