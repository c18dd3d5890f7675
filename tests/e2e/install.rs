//! From nothing to a routed call, and the chart's own test.

use std::time::Duration;

use alkhub_test_support::until;
use alkhub_tests::http::Http;
use alkhub_tests::kube::condition;
use alkhub_tests::reach::Reach;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Result, ensure};
use serde_json::json;
use tokio::time::Instant;

use crate::say;
use crate::world::{DEMO, SYSTEM, Spoke, World};

/// What the README promises, done as a person would do it; the clock runs from the first `helm install`.
pub(crate) async fn helm_install_and_two_manifests_lead_to_a_routed_call(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let start = Instant::now();
    kube.helm(&["install", "alkhub-crds", &world.file("charts/alkhub-crds")])
        .await?;
    kube.helm(&[
        "install",
        "alkhub",
        &world.file("charts/alkhub"),
        "-n",
        SYSTEM,
        "--create-namespace",
    ])
    .await?;
    kube.kubectl(&["create", "namespace", DEMO]).await?;
    kube.kubectl(&["apply", "-n", DEMO, "-f", &world.file("crds/examples")])
        .await?;
    kube.wait(
        "the Hub is ready",
        (DEMO, &["hub", "demo"]),
        Duration::from_secs(180),
        |hub| {
            condition(hub, "Ready")
                .filter(|(status, _)| *status == "True")
                .map(|_| ())
        },
    )
    .await;
    kube.wait(
        "the Spoke has its key",
        (DEMO, &["spoke", "builder"]),
        Duration::from_secs(60),
        |spoke| {
            condition(spoke, "CredentialsIssued")
                .filter(|(status, _)| *status == "True")
                .map(|_| ())
        },
    )
    .await;

    let hub = Reach::service(&kube, DEMO, "demo").await?;
    let key = kube.secret(DEMO, "builder-key", "token").await?;
    let mut peer = until("the Spoke's key opens a connection", || async {
        Peer::connect(&hub.url, &key)
            .await
            .map_err(|error| format!("{error:#}"))
    })
    .await;
    let registered = peer
        .register("builder", json!([operation("text", "echo", "query")]))
        .await?;
    ensure!(registered["operations"][0]["result"] == "registered", "{registered}");
    world.spoke = Some(Spoke::answering(peer));
    let http = Http::new(&hub.url, key);
    until("a call is routed", || async {
        let answer = http
            .call("text.echo", &json!("hello"))
            .await
            .map_err(|error| format!("{error:#}"))?;
        if answer.body["data"] == "hello" {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;
    say(&format!(
        "helm install to the first routed call: {:.1} s (aim: 60 s)",
        start.elapsed().as_secs_f64()
    ));

    kube.wait(
        "the Spoke is shown as connected",
        (DEMO, &["spoke", "builder"]),
        Duration::from_secs(60),
        |spoke| (spoke["status"]["phase"] == "Connected").then_some(()),
    )
    .await;
    Ok(())
}

/// `helm test` makes a routed call of its own.
pub(crate) async fn the_charts_own_test_passes(world: &mut World) -> Result<()> {
    let output = world
        .kube
        .helm(&["test", "alkhub", "-n", SYSTEM, "--timeout", "4m"])
        .await?;
    ensure!(output.contains("Succeeded"), "{output}");
    Ok(())
}
