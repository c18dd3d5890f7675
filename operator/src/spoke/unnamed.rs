//! Removes the Secret that a Spoke no longer names: a key left in it would look like one in force.

use alkhub_crds::Spoke;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;

use crate::context::Context;
use crate::error::Error;
use crate::names::is_owned_by;

/// Called once the key is in the Secret that the Spoke names now.
pub(super) async fn remove(ctx: &Context, spoke: &Spoke) -> Result<(), Error> {
    // A spec that was never changed has named only one Secret.
    if spoke.metadata.generation.is_none_or(|generation| generation <= 1) {
        return Ok(());
    }
    let (namespace, name) = (spoke.namespace().unwrap_or_default(), spoke.name_any());
    let (uid, named) = (spoke.uid().unwrap_or_default(), spoke.secret_name());
    let unnamed = ctx.stores.secrets.state_filter(|secret| {
        is_owned_by(&secret.metadata, &uid)
            && secret.metadata.deletion_timestamp.is_none()
            && secret.metadata.name.as_ref() != Some(&named)
            && secret.metadata.namespace.as_ref() == Some(&namespace)
    });
    if unnamed.is_empty() {
        return Ok(());
    }
    // The cache may lag behind a spec that names this very Secret again.
    let now = ctx.kubernetes.get::<Spoke>(&namespace, &name).await?;
    if !now.is_some_and(|now| now.uid() == spoke.uid() && now.metadata.generation == spoke.metadata.generation) {
        return Err(Error::Stale);
    }
    for secret in unnamed {
        tracing::info!(
            spoke.namespace = namespace,
            spoke.name = name,
            secret.name = secret.metadata.name,
            "deleting the Secret that the Spoke no longer names"
        );
        let secret = Secret {
            metadata: secret.metadata.clone(),
            ..Secret::default()
        };
        ctx.kubernetes.delete(&secret).await?;
    }
    Ok(())
}
