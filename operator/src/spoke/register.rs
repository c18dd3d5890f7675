//! Mints a Spoke's key once and declares the Spoke at its hub.
//!
//! Invariants
//! - The finalizer is there before anything exists that it must end.
//! - A key that is in the Secret is used, never replaced: an answer that was lost mints no second one.

use alkhub_crds::Spoke;
use alkhub_protocol::ApiKey;
use alkhub_protocol::admin::SpokePut;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use serde_json::json;

use super::observe::Observed;
use super::validate::Declaration;
use crate::apply::with_identity;
use crate::context::Context;
use crate::error::Error;
use crate::names::{FINALIZER, MANAGED_BY, owner};
use crate::secrets::generated::{self, Stray, Texts};

/// Keys of the Secret: names that a program reads, and names for `envFrom`.
const TOKEN: [&str; 2] = ["token", "ALKHUB_TOKEN"];
const URL: [&str; 2] = ["url", "ALKHUB_URL"];

/// A Spoke whose key is in its Secret and known to its hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    /// Digest of what was declared.
    pub(super) declared: String,
}

pub(super) async fn register(
    ctx: &Context,
    spoke: &Spoke,
    observed: &Observed,
    declaration: &Declaration,
) -> Result<Registered, Error> {
    if declaration.is_done(spoke, observed) {
        let declared = spoke
            .status
            .as_ref()
            .and_then(|status| status.declared.clone())
            .unwrap_or_default();
        return Ok(Registered { declared });
    }
    hold(ctx, spoke).await?;
    let (secret, key) = credentials(ctx, spoke, declaration).await?;
    let put = SpokePut {
        key: Some(key.expose().to_owned()),
        ..declaration.put.clone()
    };
    let pass = ctx.kubernetes.gate().pass()?;
    let door = ctx.admin.door(&declaration.hub, declaration.key.1.clone());
    door.put(&spoke.name_any(), &put).await?;
    drop(pass);
    ctx.told.now(&put.uid);
    let version = secret.metadata.resource_version.unwrap_or_default();
    Ok(Registered {
        declared: declaration.digest(&secret.metadata.uid.unwrap_or_default(), &version),
    })
}

/// Puts the finalizer, on exactly the Spoke that was seen.
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

/// The Secret with a whole key and the right address.
async fn credentials(ctx: &Context, spoke: &Spoke, declaration: &Declaration) -> Result<(Secret, ApiKey), Error> {
    let url = declaration.hub.url();
    let uid = &declaration.put.uid;
    let minted = || texts(&generated::key(), &url);
    let found = generated::ensure(&ctx.kubernetes, meta(spoke, uid), uid, Stray::Refuse, minted).await?;
    let key = TOKEN
        .iter()
        .find_map(|name| ApiKey::parse(generated::text(&found, name)?.trim()).ok());
    // Somebody emptied or broke it: only then a new key is made, and replaces exactly what was seen.
    let key = key.unwrap_or_else(generated::key);
    let wanted = texts(&key, &url);
    if wanted
        .iter()
        .all(|(name, text)| generated::text(&found, name).as_ref() == Some(text))
    {
        return Ok((found, key));
    }
    let fields = json!({ "metadata": { "resourceVersion": found.metadata.resource_version }, "stringData": wanted });
    let namespace = spoke.namespace().unwrap_or_default();
    let mended = ctx
        .kubernetes
        .merge::<Secret>(&namespace, &spoke.secret_name(), &fields)
        .await?;
    Ok((mended, key))
}

fn texts(key: &ApiKey, url: &str) -> Texts {
    let tokens = TOKEN.iter().map(|name| ((*name).to_owned(), key.expose().to_owned()));
    let urls = URL.iter().map(|name| ((*name).to_owned(), url.to_owned()));
    tokens.chain(urls).collect()
}

fn meta(spoke: &Spoke, uid: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/name", "alkhub"),
        ("app.kubernetes.io/instance", spoke.spec.hub_ref.name.as_str()),
        ("app.kubernetes.io/component", "spoke"),
        MANAGED_BY,
    ];
    ObjectMeta {
        name: Some(spoke.secret_name()),
        namespace: spoke.namespace(),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        owner_references: Some(vec![owner::<Spoke>(&spoke.name_any(), uid)]),
        ..ObjectMeta::default()
    }
}
