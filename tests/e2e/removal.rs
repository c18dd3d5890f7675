//! Taking it all away again.

use std::time::Duration;

use alkhub_test_support::until_within;
use anyhow::{Context as _, Result, ensure};

use crate::world::{DEMO, SYSTEM, World};

/// Deleting the Hub removes all that it owned, and leaves its keys for a Hub of the same name, as the schema is left; uninstalling the chart keeps the CRDs and what users made.
pub(crate) async fn a_deleted_hub_leaves_nothing_behind(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    kube.kubectl(&["delete", "-n", DEMO, "hub", "demo", "--timeout=60s"])
        .await?;
    until_within("nothing of the Hub is left", Duration::from_secs(120), || async {
        let kinds = "deployments,statefulsets,services,configmaps,secrets,serviceaccounts,poddisruptionbudgets,pods";
        let args = ["-l", "app.kubernetes.io/instance=demo", kinds];
        let left = kube.get(DEMO, &args).await.map_err(|error| format!("{error:#}"))?;
        let names: Vec<String> = left["items"]
            .as_array()
            .map(|items| {
                items
                    .iter()
                    .map(|o| format!("{}/{}", o["kind"], o["metadata"]["name"]))
                    .collect()
            })
            .unwrap_or_default();
        if names == ["\"Secret\"/\"demo-auth\""] {
            Ok(())
        } else {
            Err(names.join(", "))
        }
    })
    .await;

    kube.helm(&["uninstall", "alkhub", "-n", SYSTEM, "--wait"]).await?;
    kube.helm(&["uninstall", "alkhub-crds"]).await?;
    let crds = kube.kubectl(&["get", "crds", "-o", "name"]).await.context("the CRDs")?;
    ensure!(
        crds.contains("hubs.alkhub.dev"),
        "the CRDs went with their chart, and every Hub with them: {crds}"
    );
    Ok(())
}
