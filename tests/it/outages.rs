//! Redis or Postgres away while hubs run.

use std::time::Duration;

use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wait;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

async fn readiness(cluster: &Cluster, hub: usize) -> Result<(u16, Value), String> {
    let url = format!("{}/readyz", cluster.hubs[hub].management_url());
    let answer = reqwest::get(url).await.map_err(|e| e.to_string())?;
    let status = answer.status().as_u16();
    let body = answer.text().await.map_err(|e| e.to_string())?;
    Ok((status, serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?))
}

async fn answered(spoke: &mut Peer, http: &Http, operation: &'static str) -> Result<u16> {
    let http = http.clone();
    let caller = TaskTracker::new().spawn(async move { http.call(operation, &json!(1)).await });
    let asked = spoke.next_of("call.requested").await?;
    let id = asked["payload"]["requestId"].clone();
    spoke
        .send("call.responded", "", json!({"requestId": id, "output": 2}))
        .await?;
    Ok(caller.await??.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_the_same_hub_go_on_while_redis_is_away_and_readyz_tells() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let mut spoke = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    spoke.register("t", json!([operation("t", "echo", "query")])).await?;
    let http = Http::new(cluster.url(0), cluster.admin());
    assert_eq!(answered(&mut spoke, &http, "t.echo").await?, 200);

    cluster.redis.as_mut().context("a cluster has Redis")?.kill().await?;
    let degraded = wait::until("readyz tells that Redis is away", Duration::from_secs(20), || async {
        let (status, body) = readiness(&cluster, 0).await?;
        if body["redis"]["state"] == "down" {
            Ok((status, body))
        } else {
            Err(body.to_string())
        }
    })
    .await;
    assert_eq!(answered(&mut spoke, &http, "t.echo").await?, 200);
    let published = http.send("POST", "/v1/events/a/1", Some(&json!(1))).await?;

    cluster.redis.as_mut().context("a cluster has Redis")?.launch().await?;
    wait::until("the link is up again", Duration::from_secs(30), || async {
        let (_, body) = readiness(&cluster, 0).await?;
        if body["redis"]["state"] == "up" {
            Ok(())
        } else {
            Err(body.to_string())
        }
    })
    .await;
    let other = Http::new(cluster.url(1), cluster.admin());
    wait::until(
        "the spoke is known on the other hub again",
        Duration::from_secs(30),
        || async {
            let answer = other
                .send("GET", "/v1/operations/t.echo", None)
                .await
                .map_err(|e| e.to_string())?;
            let known = answer.body["data"]["spokes"]
                .as_array()
                .is_some_and(|spokes| !spokes.is_empty());
            if known { Ok(()) } else { Err(answer.body.to_string()) }
        },
    )
    .await;

    assert_eq!(
        (degraded.0, &degraded.1["status"]),
        (200, &json!("degraded")),
        "{}",
        degraded.1
    );
    assert_eq!(
        (published.status, &published.body["code"]),
        (503, &json!("UNAVAILABLE"))
    );
    assert_eq!(answered(&mut spoke, &other, "t.echo").await?, 200);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_ends_lets_its_calls_finish_and_its_spokes_go() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let mut spoke = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    spoke.register("t", json!([operation("t", "echo", "query")])).await?;
    let http = Http::new(cluster.url(1), cluster.admin());
    let caller = TaskTracker::new().spawn(async move { http.call("t.echo", &json!(1)).await });
    let asked = spoke.next_of("call.requested").await?;

    let hub = cluster.hubs.remove(1);
    let ending = TaskTracker::new().spawn(async move { hub.shutdown().await });
    let id = asked["payload"]["requestId"].clone();
    spoke
        .send("call.responded", "", json!({"requestId": id, "output": 2}))
        .await?;
    let answer = caller.await??;
    let (code, reason) = spoke.closed().await?;
    tokio::time::timeout(Duration::from_secs(30), ending).await??;

    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(code == 1001 || code == 1012, "{code} {reason}");
    assert!(!reason.is_empty());
    cluster.shutdown().await;
    Ok(())
}
