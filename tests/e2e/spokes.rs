//! The life of a Spoke.

use std::time::Duration;

use alkhub_test_support::{until, until_within};
use alkhub_tests::http::Http;
use alkhub_tests::kube::Kube;
use alkhub_tests::reach::Reach;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::hubs::{PORT, admin_key, ready_pods};
use crate::world::{DEMO, Spoke, World};

/// Connects the spoke `builder` again if its pod was one of those that went, and closed it with a reason.
pub(crate) async fn back_when_let_go(world: &mut World) -> Result<()> {
    if world.spoke.as_ref().is_some_and(Spoke::connected) {
        return Ok(());
    }
    let spoke = world.spoke.take().context("the first step left a spoke")?;
    let (code, reason) = spoke.closed().await?;
    ensure!(code == 1001 || code == 1012, "closed with {code} {reason}");
    reconnect(world).await
}

/// Connects the spoke `builder` again, as its own program would.
pub(crate) async fn reconnect(world: &mut World) -> Result<()> {
    let hub = Reach::service(&world.kube, DEMO, "demo").await?;
    let key = world.kube.secret(DEMO, "builder-key", "token").await?;
    let mut peer = until("the spoke is let in", || async {
        Peer::connect(&hub.url, &key)
            .await
            .map_err(|error| format!("{error:#}"))
    })
    .await;
    peer.register("builder", json!([operation("text", "echo", "query")]))
        .await?;
    world.spoke = Some(Spoke::answering(peer));
    Ok(())
}

/// Once all is as wanted, nothing writes: resource versions stand still over several polls of the operator.
pub(crate) async fn a_steady_cluster_is_left_alone(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let before = until_within("two looks see the same", Duration::from_secs(120), || async {
        let one = versions(&kube).await.map_err(|error| format!("{error:#}"))?;
        watch_quietly(&kube, 4).await.map_err(|error| format!("{error:#}"))?;
        let two = versions(&kube).await.map_err(|error| format!("{error:#}"))?;
        if one == two {
            Ok(two)
        } else {
            Err(format!("{one:?}\n{two:?}"))
        }
    })
    .await;
    watch_quietly(&kube, 25).await?;
    let after = versions(&kube).await?;
    ensure!(
        before == after,
        "something was written in a steady cluster:\n{before:?}\n{after:?}"
    );
    Ok(())
}

/// Lets the cluster run by watching it for some seconds; the watch ends itself.
async fn watch_quietly(kube: &Kube, seconds: u32) -> Result<()> {
    let limit = format!("--request-timeout={seconds}s");
    // A watch that runs into its limit fails: that is how it is meant to end.
    drop(kube.kubectl(&["get", "hubs", "-n", DEMO, "--watch-only", &limit]).await);
    Ok(())
}

async fn versions(kube: &Kube) -> Result<Vec<(String, String)>> {
    let kinds = "hubs,spokes,replicasets,controllerrevisions,statefulsets,services,configmaps,secrets,serviceaccounts,poddisruptionbudgets";
    let all = kube.get(DEMO, &[kinds, "--show-managed-fields"]).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = all["items"].as_array().context("a list")?;
    Ok(items
        .iter()
        .map(|o| {
            let (kind, meta) = (text(&o["kind"]), &o["metadata"]);
            let version = match kind.as_str() {
                // Kubernetes writes their status whenever a pod's readiness changes, which a busy machine brings about.
                "ReplicaSet" | "StatefulSet" => written_by_us(meta),
                _ => text(&meta["resourceVersion"]),
            };
            (format!("{kind}/{}", text(&meta["name"])), version)
        })
        .collect())
}

/// When the operator wrote a workload last, and what.
fn written_by_us(meta: &Value) -> String {
    let fields = meta["managedFields"].as_array().into_iter().flatten();
    let ours = fields.filter(|entry| {
        entry["manager"]
            .as_str()
            .is_some_and(|manager| manager.contains("alkhub"))
    });
    let ours: Vec<String> = ours.map(Value::to_string).collect();
    format!("{} {}", meta["generation"], ours.join(" "))
}

/// The key dies on every pod and the connection is closed with 4401, whichever pod holds it.
pub(crate) async fn a_deleted_spoke_loses_its_key_and_its_connection(world: &mut World) -> Result<()> {
    let key = world.kube.secret(DEMO, "builder-key", "token").await?;
    let spoke = world.spoke.take().context("the first step left a spoke")?;

    world
        .kube
        .kubectl(&["delete", "-n", DEMO, "spoke", "builder", "--timeout=60s"])
        .await?;
    let (code, reason) = tokio::time::timeout(Duration::from_secs(30), spoke.closed())
        .await
        .context("a close within 30 s")??;

    ensure!(code == 4401, "closed with {code} {reason}");
    for pod in ready_pods(&world.kube, DEMO, "demo").await? {
        let reach = Reach::pod(&world.kube, DEMO, &pod, PORT).await?;
        let refused = Http::new(&reach.url, &key).send("GET", "/v1/operations", None).await?;
        ensure!(refused.status == 401, "{pod} still honours the key: {refused:?}");
        let admin = Http::new(&reach.url, admin_key(&world.kube, DEMO, "demo").await?);
        let left = admin.send("GET", "/v1/admin/spokes", None).await?;
        ensure!(
            !left.body.to_string().contains("\"builder\""),
            "{pod} still lists the spoke: {left:?}"
        );
    }
    let secret = world
        .kube
        .get(DEMO, &["secret", "builder-key", "--ignore-not-found"])
        .await;
    ensure!(secret.is_err(), "the Secret of the key is still there");
    Ok(())
}
