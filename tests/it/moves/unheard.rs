//! A hub is gone and nobody is told: whatever had to do with moved sessions ends all the same.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_test_support::{RedisServer, within};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::counting::{Counting, is_known_at};

/// How long a hub may be silent here before it counts as gone.
const LEASE: Duration = Duration::from_secs(3);

async fn two_hubs() -> Result<Cluster> {
    let mut cluster = Cluster::empty(Some(RedisServer::start().await)).await?;
    for _ in 0..2 {
        let change = |config: &mut HubConfig| {
            config.events.lease_ttl = LEASE;
            config.events.lease_interval = LEASE / 4;
        };
        cluster.add(change).await?;
    }
    cluster.know_each_other(false).await;
    Ok(cluster)
}

/// A hub dies together with Redis, which comes back without its data, so that nobody can tell the other hub.
async fn dies_unheard(cluster: &mut Cluster, hub: usize) -> Result<()> {
    cluster.redis.as_mut().context("a Redis")?.kill().await;
    cluster.hubs[hub].kill().await;
    cluster.redis.as_mut().context("a Redis")?.launch().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_on_the_hub_that_its_spoke_has_left_when_the_other_one_is_lost() -> Result<()> {
    let mut cluster = two_hubs().await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let (http, input) = (Http::new(cluster.url(0), cluster.admin()), json!("a"));

    let lost = async {
        spoke.expect("call.requested").await?;
        let moved = spoke.cut().resume(&cluster, 1).await?;
        is_known_at(&cluster, 0, "text", 1).await;
        dies_unheard(&mut cluster, 1).await?;
        anyhow::Ok(moved)
    };
    let both = Box::pin(async { tokio::join!(http.call("text.upper", &input), lost) });
    let (answer, lost) = within("the call ends", both).await;

    lost?;
    let answer = answer?;
    let (code, delivered) = (&answer.body["code"], &answer.body["delivered"]);
    ensure!(code == "SPOKE_LOST" && delivered == "maybe", "{answer:?}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_peer_ends_on_the_hub_that_it_has_come_to_when_the_other_one_is_lost() -> Result<()> {
    let mut cluster = two_hubs().await?;
    let mut other = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    other
        .register("other", json!([operation("other", "echo", "mutation")]))
        .await?;
    let key = cluster.admin().to_owned();
    let mut caller = Counting::begin(&cluster, 0, &key).await?;
    caller.ask("mine", "other.echo", json!("a")).await?;
    other.next_of("call.requested").await?;
    let (mut caller, _) = caller.cut().resume(&cluster, 1).await?;

    dies_unheard(&mut cluster, 0).await?;
    let failed = within("the call ends", caller.expect("call.error")).await?;

    let (code, delivered) = (&failed["payload"]["code"], &failed["payload"]["delivered"]);
    ensure!(code == "UNAVAILABLE" && delivered == "maybe", "{failed}");
    cluster.shutdown().await;
    Ok(())
}
