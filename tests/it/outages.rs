//! Redis or Postgres away while hubs run.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_devdb::Server;
use alkhub_test_support::{RedisServer, until};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
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

async fn redis_is(cluster: &Cluster, hub: usize, state: &str) -> (u16, Value) {
    link_is(cluster, hub, "redis", state).await
}

async fn link_is(cluster: &Cluster, hub: usize, link: &str, state: &str) -> (u16, Value) {
    let what = format!("readyz of hub {hub} tells that {link} is {state}");
    until(&what, || async {
        let (status, body) = readiness(cluster, hub).await?;
        if body[link]["state"] == state {
            Ok((status, body))
        } else {
            Err(body.to_string())
        }
    })
    .await
}

/// Makes a call, answers it as the spoke, and returns the status: of the answer, or of the hub's refusal if the spoke
/// was not asked.
async fn answered(spoke: &mut Peer, http: &Http, operation: &'static str) -> Result<u16> {
    let http = http.clone();
    let mut caller = TaskTracker::new().spawn(async move { http.call(operation, &json!(1)).await });
    let asked = tokio::select! {
        asked = spoke.next_of("call.requested") => asked?,
        refused = &mut caller => return Ok(refused??.status),
    };
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

    cluster.redis.as_mut().context("a cluster has Redis")?.kill().await;
    let degraded = redis_is(&cluster, 0, "down").await;
    redis_is(&cluster, 1, "down").await;
    let other = Http::new(cluster.url(1), cluster.admin());
    let routed = other.call("t.echo", &json!(1)).await?;
    assert_eq!(answered(&mut spoke, &http, "t.echo").await?, 200);
    let published = http.send("POST", "/v1/events/a/1", Some(&json!(1))).await?;

    cluster.redis.as_mut().context("a cluster has Redis")?.launch().await;
    redis_is(&cluster, 0, "up").await;
    redis_is(&cluster, 1, "up").await;
    // One hub may read the directory before the other has written its spokes again.
    let routed_again = async {
        while answered(&mut spoke, &other, "t.echo").await? != 200 {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), routed_again)
        .await
        .context("no call is routed to the other hub again")??;

    assert_eq!(
        (degraded.0, &degraded.1["status"]),
        (200, &json!("degraded")),
        "{}",
        degraded.1
    );
    assert_eq!(
        (routed.status, &routed.body["code"], &routed.body["delivered"]),
        (503, &json!("UNAVAILABLE"), &json!("no")),
        "{routed:?}"
    );
    assert_eq!(
        (published.status, &published.body["code"]),
        (503, &json!("UNAVAILABLE"))
    );
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_link_from_pod_to_pod_calls_between_hubs_go_on_while_redis_is_away() -> Result<()> {
    let mut cluster = Cluster::empty(Some(RedisServer::start().await)).await?;
    for _ in 0..2 {
        let port = |config: &mut HubConfig| config.server.peer_listen = Some(([127, 0, 0, 1], 0).into());
        cluster.add(port).await?;
    }
    for hub in &cluster.hubs {
        let metrics = format!("{}/metrics", hub.management_url());
        until("the link is up", || async {
            let answer = reqwest::get(&metrics).await.map_err(|e| e.to_string())?;
            let text = answer.text().await.map_err(|e| e.to_string())?;
            if text.contains("\nalkhub_peer_links 1\n") {
                Ok(())
            } else {
                Err("there is none".to_owned())
            }
        })
        .await;
    }
    let mut spoke = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    spoke.register("t", json!([operation("t", "echo", "mutation")])).await?;
    let other = Http::new(cluster.url(1), cluster.admin());
    until("the other hub knows the operation", || async {
        let known = other.send("GET", "/v1/operations/t.echo", None).await;
        match known.map_err(|e| e.to_string())?.status {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;

    cluster.redis.as_mut().context("a cluster has Redis")?.kill().await;
    for hub in [0, 1] {
        redis_is(&cluster, hub, "down").await;
        assert_eq!(answered(&mut spoke, &other, "t.echo").await?, 200);
    }
    cluster.redis.as_mut().context("a cluster has Redis")?.launch().await;
    for hub in [0, 1] {
        redis_is(&cluster, hub, "up").await;
        assert_eq!(answered(&mut spoke, &other, "t.echo").await?, 200);
    }

    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_registers_while_redis_is_away_is_called_on_its_hub_at_once_and_elsewhere_later() -> Result<()> {
    let mut cluster = Cluster::joined(2, true).await?;
    cluster.redis.as_mut().context("a cluster has Redis")?.kill().await;
    for hub in [0, 1] {
        redis_is(&cluster, hub, "down").await;
    }

    let mut spoke = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let registered = spoke
        .register("late", json!([operation("late", "echo", "query")]))
        .await?;
    let near = Http::new(cluster.url(0), cluster.admin());
    let here = answered(&mut spoke, &near, "late.echo").await?;
    let far = Http::new(cluster.url(1), cluster.admin());
    let there = far.call("late.echo", &json!(1)).await?;

    cluster.redis.as_mut().context("a cluster has Redis")?.launch().await;
    let later = async {
        while answered(&mut spoke, &far, "late.echo").await? != 200 {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), later)
        .await
        .context("the other hub never learns of it")??;
    assert_eq!(here, 200);
    assert_eq!(
        registered["laggingHubs"].as_array().map(Vec::len),
        Some(1),
        "{registered}"
    );
    assert_eq!(
        (there.status, &there.body["delivered"]),
        (503, &json!("no")),
        "{there:?}"
    );
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_registrations_go_on_while_postgres_is_away_and_readyz_tells() -> Result<()> {
    let postgres = Server::temporary().await?;
    let mut cluster = Cluster::empty(Some(RedisServer::start().await)).await?;
    for _ in 0..2 {
        let own = |config: &mut HubConfig| {
            config.store.database_url = Some(postgres.url().into());
            config.store.ping_interval = Duration::from_millis(200);
        };
        cluster.add(own).await?;
    }
    let mut spoke = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    spoke.register("t", json!([operation("t", "echo", "query")])).await?;
    let (near, far) = (
        Http::new(cluster.url(0), cluster.admin()),
        Http::new(cluster.url(1), cluster.admin()),
    );
    until("the other hub knows the spoke", || async {
        let known = far.send("GET", "/v1/operations/t.echo", None).await;
        known.map_err(|e| e.to_string()).and_then(|known| {
            if known.status == 200 {
                Ok(())
            } else {
                Err(format!("{known:?}"))
            }
        })
    })
    .await;
    let new = json!({"name": "new", "scopes": ["operations:read"]});
    let (_, new) = near.new_key(&new).await?;
    let new = Http::new(cluster.url(1), new);

    postgres.stop().await?;
    let degraded = link_is(&cluster, 0, "postgres", "down").await;
    link_is(&cluster, 1, "postgres", "down").await;
    let routed = answered(&mut spoke, &far, "t.echo").await?;
    let mut another = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let registered = another
        .register("late", json!([operation("late", "echo", "query")]))
        .await?;
    let called = answered(&mut another, &near, "late.echo").await?;
    let unknown = new.send("GET", "/v1/operations", None).await?;

    postgres.start_again().await?;
    link_is(&cluster, 0, "postgres", "up").await;
    let ready = link_is(&cluster, 1, "postgres", "up").await;
    assert_eq!(new.send("GET", "/v1/operations", None).await?.status, 200);
    until("the calls of the outage are recorded", || async {
        let calls = near.send("GET", "/v1/calls", None).await.map_err(|e| e.to_string())?;
        let calls = calls.body["data"].to_string();
        let recorded = |operation: &str| calls.contains(&format!("\"{operation}\""));
        if recorded("t.echo") && recorded("late.echo") {
            Ok(())
        } else {
            Err(calls)
        }
    })
    .await;
    let late = async {
        while answered(&mut another, &far, "late.echo").await? != 200 {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), late)
        .await
        .context("the other hub never learns what was registered meanwhile")??;

    assert_eq!(
        (degraded.0, &degraded.1["status"]),
        (200, &json!("degraded")),
        "{degraded:?}"
    );
    assert_eq!((routed, called), (200, 200));
    assert_eq!(registered["operations"][0]["result"], "registered", "{registered}");
    assert_eq!(
        (unknown.status, &unknown.body["code"]),
        (503, &json!("UNAVAILABLE")),
        "{unknown:?}"
    );
    assert!(unknown.body["detail"].to_string().contains("Postgres"), "{unknown:?}");
    assert_eq!((ready.0, &ready.1["status"]), (200, &json!("ok")), "{ready:?}");
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
