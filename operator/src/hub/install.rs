//! Which install of the operator keeps a Hub, where several watch it: the one that its status names.
//!
//! Invariants
//! - An install names itself on exactly the version of the Hub that it saw: of two installs that found none, one gets
//!   409.
//! - Nothing is written to a Hub that another install keeps, or to its Spokes.
//! - A Hub is taken over only from an install whose Lease is gone, or has not been renewed for [`SILENT`] and four
//!   times its duration, by this process's own clock. An operator that may not read that Lease leaves the Hub alone.

use std::time::Duration;

use alkhub_crds::Hub;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use serde_json::json;

use crate::args::Args;
use crate::context::Context;
use crate::error::Error;

/// An install whose Lease has not changed for this long is considered ended.
const SILENT: Duration = Duration::from_secs(20);

/// The name of an install.
pub(crate) fn own(options: &Args) -> String {
    format!("{}/{}", options.namespace, options.lease_name)
}

/// The other install that keeps a Hub; `None`: this install does, or nobody yet.
pub(crate) fn other<'a>(options: &Args, hub: &'a Hub) -> Option<&'a str> {
    let install = hub.status.as_ref()?.operator.as_deref();
    install.filter(|_| is_other(options, install))
}

/// Whether the install that a status names is another one.
pub(crate) fn is_other(options: &Args, install: Option<&str>) -> bool {
    install.is_some_and(|install| !install.is_empty() && install != own(options))
}

/// Makes the Hub ours, unless another install keeps it.
pub(crate) async fn take(ctx: &Context, hub: &Hub) -> Result<bool, Error> {
    let own = own(&ctx.options);
    let install = hub.status.as_ref().and_then(|status| status.operator.as_deref());
    match install {
        Some(install) if install == own => return Ok(true),
        Some(install) if !install.is_empty() && !has_ended(ctx, install).await? => {
            tracing::info!(
                hub.namespace = hub.namespace(),
                hub.name = hub.name_any(),
                operator = install,
                "another operator keeps this Hub: status.operator names it"
            );
            return Ok(false);
        }
        Some(_) | None => {}
    }
    let fields = json!({
        "metadata": { "uid": hub.uid(), "resourceVersion": hub.resource_version() },
        "status": { "operator": own },
    });
    let namespace = hub.namespace().unwrap_or_default();
    ctx.kubernetes
        .merge_status::<Hub>(&namespace, &hub.name_any(), &fields)
        .await?;
    Ok(true)
}

/// Whether an install has ended, so that nobody keeps its Hubs any more.
async fn has_ended(ctx: &Context, install: &str) -> Result<bool, Error> {
    let Some((namespace, name)) = install.split_once('/') else {
        return Ok(true);
    };
    match ctx.kubernetes.get::<Lease>(namespace, name).await {
        Ok(None) => Ok(true),
        Ok(Some(lease)) => {
            let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
            let duration = Duration::from_secs(seconds.unwrap_or_default().unsigned_abs().into());
            let silence = ctx
                .others
                .silence(install, &lease.resource_version().unwrap_or_default());
            Ok(silence >= SILENT.max(duration.saturating_mul(4)))
        }
        Err(error) if error.is_forbidden() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::hub::testing::{given, hub};

    #[test]
    fn a_hub_of_another_install_is_told_apart_from_ours_and_from_nobodys() {
        let options = Args::try_parse_from(["alkhub-operator", "--namespace", "team"]).expect("valid");
        let kept_by = |by: Option<&str>| {
            let mut hub = hub(given());
            hub.status.get_or_insert_default().operator = by.map(str::to_owned);
            hub
        };

        assert_eq!(other(&options, &hub(given())), None);
        assert_eq!(other(&options, &kept_by(Some("team/alkhub-operator"))), None);
        assert_eq!(other(&options, &kept_by(Some(""))), None);
        assert_eq!(
            other(&options, &kept_by(Some("alkhub-system/alkhub-operator"))),
            Some("alkhub-system/alkhub-operator")
        );
    }
}
