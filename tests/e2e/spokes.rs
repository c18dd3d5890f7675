//! The life of a Spoke.

use std::time::Duration;

use alkhub_test_support::until;
use alkhub_tests::http::Http;
use alkhub_tests::kube::Kube;
use alkhub_tests::reach::Reach;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::hubs::{PORT, admin_key, ready_pods};
use crate::world::{DEMO, Spoke, World};

/// Connects the spoke `builder` again if its pod was one of those that ended and closed it with a reason.
pub(crate) async fn back_when_let_go(world: &mut World) -> Result<()> {
    if world.spoke.as_ref().is_some_and(Spoke::connected) {
        return Ok(());
    }
    let spoke = world.spoke.take().context("the first step left a spoke")?;
    let (code, reason) = spoke.closed().await?;
    ensure!(code == 1001 || code == 1012, "closed with {code} {reason}");
    reconnect(world).await
}

/// Connects the spoke `builder` again if its hub was killed, which does not say anything.
pub(crate) async fn back_when_lost(world: &mut World) -> Result<()> {
    if world.spoke.as_ref().is_some_and(Spoke::connected) {
        return Ok(());
    }
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

/// How many times to look, for half a minute each; two in a row must find nothing written. There is a reason to write
/// when a busy machine keeps a pod from answering.
const LOOKS: usize = 6;

/// Once everything is as wanted, nothing writes: resource versions stay the same over several polls of the operator.
pub(crate) async fn a_steady_cluster_is_left_alone(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let mut quiet = 0;
    let mut changes = Vec::new();
    for _ in 0..LOOKS {
        let before = versions(&kube).await?;
        watch_quietly(&kube, 25).await?;
        let after = versions(&kube).await?;
        if before == after {
            quiet += 1;
            if quiet == 2 {
                return Ok(());
            }
        } else {
            quiet = 0;
            let changed = after.iter().filter(|seen| !before.contains(seen));
            changes.push(format!("{:?} of {}", changed.collect::<Vec<_>>(), before.len()));
        }
    }
    bail!("something is written in a steady cluster: {changes:#?}")
}

/// Lets the cluster run by watching it for some seconds; the watch ends by itself.
async fn watch_quietly(kube: &Kube, seconds: u32) -> Result<()> {
    let limit = format!("--request-timeout={seconds}s");
    // A watch that reaches its time limit fails, which is how it is meant to end.
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
                // Kubernetes writes their status whenever a pod's readiness changes, which may happen on a busy
                // machine.
                "ReplicaSet" | "StatefulSet" => written_by_us(meta),
                _ => text(&meta["resourceVersion"]),
            };
            (format!("{kind}/{}", text(&meta["name"])), version)
        })
        .collect())
}

/// When the operator last wrote a workload, and what.
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

/// The key is refused on every pod, and the connection is closed with 4401, whichever pod holds it.
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
        let http = Http::new(&reach.url, &key);
        let admin = Http::new(&reach.url, admin_key(&world.kube, DEMO, "demo").await?);
        until(&format!("{pod} knows neither the key nor the spoke"), || async {
            let refused = http.send("GET", "/v1/operations", None).await;
            let refused = refused.map_err(|error| format!("{error:#}"))?;
            let left = admin.send("GET", "/v1/admin/spokes", None).await;
            let left = left.map_err(|error| format!("{error:#}"))?;
            if refused.status == 401 && !left.body.to_string().contains("\"builder\"") {
                Ok(())
            } else {
                Err(format!("{refused:?} {left:?}"))
            }
        })
        .await;
    }
    // Its owner is gone, so Kubernetes collects it.
    until("the Secret of the key is gone", || async {
        let args = [
            "get",
            "-n",
            DEMO,
            "secret",
            "builder-key",
            "--ignore-not-found",
            "-o",
            "name",
        ];
        match world.kube.kubectl(&args).await {
            Ok(left) if left.trim().is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
    Ok(())
}
