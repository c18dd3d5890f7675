//! Bounds on moves: how often a session moves while one of its calls runs, and how much it consists of.

use alkhub_test_support::within;
use alkhub_tests::wire::Peer;
use anyhow::{Result, ensure};
use serde_json::json;

use super::counting::{Carrier, Counting, hubs};

/// Topics with ids of [`ID_BYTES`]: more than fit into one message between two hubs.
const TOPICS: usize = 5_000;
const ID_BYTES: usize = 480;

/// How many hubs may be between a session and a call.
const MOST_HUBS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_when_its_session_goes_on_and_on() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let (mut reader, watch) = spoke.followed_at(&cluster, 0).await?;

    for hop in 1..=MOST_HUBS {
        (spoke, _) = Box::pin(spoke.cut().resume(&cluster, hop % 2)).await?;
    }
    spoke.respond(&watch, json!("from far away")).await?;
    let item = reader.next_of("call.responded").await?;
    ensure!(item["payload"]["output"]["data"] == "from far away", "{item}");

    (spoke, _) = Box::pin(spoke.cut().resume(&cluster, 1)).await?;
    let (ended, aborted) = within("the call ends", async {
        tokio::join!(reader.next_of("call.error"), spoke.expect("call.aborted"))
    })
    .await;

    ensure!(ended?["id"] == "w" && aborted?["id"] == watch["id"], "{watch}");
    // Nothing is left of the path that it has taken.
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_connections{kind=\"left\"} 0\n").await;
    }
    spoke.answers_at(&cluster, 0, "as before").await?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_thousands_of_long_topics_moves_over_a_link_that_stays() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let mut reader = Counting::begin(&cluster, 0, cluster.admin()).await?;
    let id = |n: usize| format!("{n:0ID_BYTES$}");
    for n in 0..TOPICS {
        let topic = format!("t:{}", id(n));
        reader.send("__subscribe", "", json!({ "topic": topic })).await?;
        reader.expect("__subscribed").await?;
    }

    let (mut reader, _) = Box::pin(reader.cut().resume(&cluster, 1)).await?;
    for _ in 0..TOPICS {
        reader.expect("__gap").await?;
    }
    let mut other = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let last = id(TOPICS - 1);
    other.send("t", &last, json!({ "ok": true })).await?;

    let event = reader.expect("t").await?;
    ensure!(
        event["id"] == last.as_str() && event["payload"]["ok"] == true,
        "{event}"
    );
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_peer_links_made_total 1\n").await;
    }
    cluster.shutdown().await;
    Ok(())
}
