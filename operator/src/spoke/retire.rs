//! Ends a Spoke at its hub and lets it go.
//!
//! Invariants
//! - A Hub that lives and does not answer keeps the Spoke: its key might still open doors.
//! - A Hub that is gone, by the API server's own word, or going, keeps nobody.

use alkhub_crds::{Hub, Spoke};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::json;

use super::{RESYNC, observe, status};
use crate::admin;
use crate::apply::with_identity;
use crate::context::Context;
use crate::error::Error;
use crate::hub::ADMIN_KEY;
use crate::leading::{Done, Going as _};
use crate::names::{FINALIZER, Names, is_owned_by};
use crate::secrets::generated::text;

pub(super) async fn retire(ctx: &Context, spoke: &Spoke) -> Result<Done, Error> {
    if !spoke.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Done::Well(RESYNC));
    }
    // Asked of the API server: a cache that is behind may not know a Hub yet, or know one that is gone.
    let namespace = spoke.namespace().unwrap_or_default();
    let hub = ctx.kubernetes.get::<Hub>(&namespace, &spoke.spec.hub_ref.name).await?;
    if let Some(hub) = hub.filter(|hub| !hub.meta_is_going())
        && let Err(error) = end(ctx, spoke, &Names::of(&hub)).await
    {
        let observed = observe::observe(ctx, spoke);
        let why = format!("deleted, but its key cannot be ended: {}", error.chain());
        status::unanswered(ctx, spoke, &observed, &why).await?;
        return Err(error);
    }
    // Applying nothing takes away what this operator applied: its finalizer, and that alone.
    let patch = with_identity::<Spoke>(
        &json!({ "metadata": { "name": spoke.name_any() } }),
        spoke.uid().as_deref(),
    );
    match ctx
        .kubernetes
        .apply::<Spoke>(&namespace, &spoke.name_any(), &patch)
        .await
    {
        Ok(_) => Ok(Done::Well(RESYNC)),
        // With our uid and no such object the server answers a conflict: it is gone already.
        Err(error) if error.is_conflict() && is_gone(ctx, spoke, &namespace).await? => Ok(Done::Well(RESYNC)),
        Err(error) => Err(error),
    }
}

/// Ends the spoke at a hub that lives.
async fn end(ctx: &Context, spoke: &Spoke, names: &Names) -> Result<(), Error> {
    let secret: Option<Secret> = ctx.kubernetes.get(&names.namespace, &names.auth()).await?;
    let secret = secret.filter(|secret| is_owned_by(&secret.metadata, &names.uid));
    let Some(key) = secret.and_then(|secret| text(&secret, ADMIN_KEY)) else {
        // A Hub without its first key never had a pod: nothing was ever declared there.
        return Ok(());
    };
    let pass = ctx.kubernetes.gate().pass()?;
    let door = ctx.admin.door(names, key.into());
    let ended = door.delete(&spoke.name_any(), &spoke.uid().unwrap_or_default()).await;
    drop(pass);
    ended.map_err(|error: admin::Error| error.into())
}

async fn is_gone(ctx: &Context, spoke: &Spoke, namespace: &str) -> Result<bool, Error> {
    let now = ctx.kubernetes.get::<Spoke>(namespace, &spoke.name_any()).await?;
    Ok(now.is_none_or(|now| now.uid() != spoke.uid()))
}
