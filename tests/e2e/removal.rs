//! Taking it all away again.

use std::time::Duration;

use alkhub_test_support::until_within;
use anyhow::{Context as _, Result, ensure};

use crate::world::{DEMO, SYSTEM, World};

/// Deleting the Hub removes everything that it owned, but leaves its keys for a Hub of the same name, since the schema
/// is left too; uninstalling the chart keeps the CRDs and what users made.
pub(crate) async fn a_deleted_hub_leaves_nothing_behind(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    kube.kubectl(&["delete", "-n", DEMO, "hub", "demo", "--timeout=60s"])
        .await?;
    until_within("nothing of the Hub is left", Duration::from_secs(120), || async {
        let kinds = "replicasets,controllerrevisions,statefulsets,services,configmaps,secrets,serviceaccounts,poddisruptionbudgets,pods";
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

/// A Hub made by the chart, with the volume of its Postgres, still exists after the release is gone; one with
/// `hub.keep=false` does not.
pub(crate) async fn a_hub_that_helm_made_outlives_its_release_unless_told_otherwise(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let chart = world.file("charts/alkhub");
    for (name, keep) in [("kept", true), ("unkept", false)] {
        let hub = format!("hub.create=true,hub.name={name},hub.keep={keep},hub.spec.replicas=1");
        kube.helm(&[
            "upgrade",
            "--install",
            "alkhub",
            &chart,
            "-n",
            SYSTEM,
            "--reset-values",
            "--set",
            &hub,
            "--wait",
        ])
        .await?;
        kube.wait(
            "the Hub is ready",
            (SYSTEM, &["hub", name]),
            Duration::from_secs(180),
            |hub| (hub["status"]["readyReplicas"] == 1).then_some(()),
        )
        .await;

        kube.helm(&["uninstall", "alkhub", "-n", SYSTEM, "--wait"]).await?;

        let of_it = format!("app.kubernetes.io/instance={name}");
        let left = async |kind: &str| kube.get(SYSTEM, &[kind, "-l", &of_it]).await;
        if keep {
            let hub = kube.get(SYSTEM, &["hub", name]).await?;
            ensure!(hub["metadata"]["deletionTimestamp"].is_null(), "it goes: {hub}");
            let pods = left("pods").await?;
            ensure!(pods["items"].as_array().is_some_and(|pods| pods.len() == 3), "{pods}");
            let volumes = left("pvc").await?;
            let stays = |volume: &serde_json::Value| volume["metadata"]["deletionTimestamp"].is_null();
            let volumes = volumes["items"].as_array().context("a list")?;
            ensure!(!volumes.is_empty() && volumes.iter().all(stays), "{volumes:?}");
        } else {
            until_within("the Hub and its volumes are gone", Duration::from_secs(120), || async {
                let volumes = left("pvc").await.map_err(|error| format!("{error:#}"))?;
                let hubs = kube
                    .get(SYSTEM, &["hubs"])
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                let named = hubs["items"].to_string().contains("\"unkept\"");
                let gone = !named && volumes["items"].as_array().is_some_and(Vec::is_empty);
                if gone { Ok(()) } else { Err(format!("{hubs} {volumes}")) }
            })
            .await;
        }
    }
    Ok(())
}
