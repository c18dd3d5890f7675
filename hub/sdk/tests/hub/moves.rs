//! A hub that drains asks its peers to move elsewhere, and no caller notices.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alkhub_sdk::protocol::HubId;
use alkhub_sdk::spoke::Status;
use alkhub_sdk::{CallOptions, Client, Spoke};
use alkhub_test_support::Proxy;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::{Result, ensure};
use serde_json::json;

use crate::load::{Load, address};
use crate::stage::soon;

/// Spokes that are drained under load.
const SPOKES: usize = 6;

/// How many callers of each kind there are at once.
const CALLERS: usize = 8;

/// How many calls are answered before the drain, and again after it.
const CALLS: usize = 200;

/// A call that waits longer than a move takes.
fn patient() -> CallOptions {
    CallOptions {
        timeout: Some(Duration::from_secs(20)),
        ..CallOptions::default()
    }
}

fn generation(status: &Status) -> u64 {
    match status {
        Status::Registered(registered) => registered.generation,
        Status::Connecting(_) | Status::Ended(_) => 0,
    }
}

/// Waits until each spoke shows the hub that it has moved to, with a newer registration than before.
async fn show_the_move(spokes: &[Spoke], generations: &[u64], there: &HubId) -> Result<()> {
    for (spoke, before) in spokes.iter().zip(generations) {
        let mut status = spoke.status();
        let moved = |status: &Status| matches!(status, Status::Registered(registered) if registered.hub_id == *there);
        let shown = soon("the spoke shows where it is", status.wait_for(moved)).await?;
        let now = generation(&shown);
        ensure!(now > *before, "it moved, and its generation {before} is {now}");
    }
    Ok(())
}

async fn a_hub_is_drained_under_load(linked: bool) -> Result<()> {
    let cluster = Cluster::joined(3, linked).await?;
    let proxy = Proxy::start(address(&cluster, 0)).await?;
    let url = format!("http://{}", proxy.address());
    let load = Arc::new(Load::default());
    let mut spokes = Vec::new();
    for n in 0..SPOKES {
        let spoke = Spoke::builder(&url).token(cluster.admin()).name("text");
        let spoke = spoke
            .instance_id(format!("i-{n}"))
            .sessions(1)
            .operation(load.operation());
        spokes.push(spoke.start().await?);
    }
    for hub in 0..3 {
        cluster
            .shows(hub, &format!("\nalkhub_spoke_instances_known {SPOKES}\n"))
            .await;
    }
    let client = Client::builder(&url).token(cluster.admin()).build()?;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let http = Http::new(cluster.url(1 + caller % 2), cluster.admin());
        let over_http = Arc::clone(&load);
        callers.spawn(async move {
            let call = |n: u64| {
                let http = http.clone();
                async move {
                    let answer = http.call("text.double", &json!(n)).await?;
                    let doubled = answer.body["data"].as_u64();
                    doubled.ok_or_else(|| anyhow::anyhow!("{answer:?}"))
                }
            };
            over_http.call(call).await;
        });
        let (load, client) = (Arc::clone(&load), client.clone());
        callers.spawn(async move {
            let call = |n: u64| {
                let client = client.clone();
                async move { client.call_with::<_, u64>("text.double", &n, patient()).await }
            };
            load.call(call).await;
        });
    }
    load.answered(CALLS).await;

    proxy.lead_to(address(&cluster, 1));
    let generations: Vec<u64> = spokes
        .iter()
        .map(|spoke| generation(&spoke.status().borrow()))
        .collect();
    let before = load.answered.load(Ordering::SeqCst);
    soon("the hub is drained", Box::pin(cluster.hubs[0].shutdown())).await;

    load.answered(before + CALLS).await;
    show_the_move(&spokes, &generations, cluster.hubs[1].hub_id()).await?;
    load.stop.store(true, Ordering::SeqCst);
    soon("the callers end", async {
        while callers.join_next().await.is_some() {}
    })
    .await;
    ensure!(load.failed.lock().is_empty(), "failed: {:?}", load.failed.lock());
    ensure!(load.twice().is_empty(), "ran more than once: {:?}", load.twice());
    // Each has moved once: the spokes, and the client.
    cluster
        .shows(
            1,
            &format!("\nalkhub_sessions_total{{event=\"arrived\"}} {}\n", SPOKES + 1),
        )
        .await;
    for spoke in spokes {
        spoke.shutdown().await;
    }
    client.close().await;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_drains_under_load_fails_no_call_over_redis() -> Result<()> {
    Box::pin(a_hub_is_drained_under_load(false)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_drains_under_load_fails_no_call_over_a_link() -> Result<()> {
    Box::pin(a_hub_is_drained_under_load(true)).await
}
