//! What becomes of subscriptions to topics.

use alkhub_tests::cluster::Cluster;
use alkhub_tests::wire::Peer;
use anyhow::{Result, ensure};
use serde_json::json;

use super::counting::Counting;

/// The hub's own events reach the session before Redis has confirmed its subscription there.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_comes_before_the_gap_of_a_subscription_that_begins_again_on_another_hub() -> Result<()> {
    let (cluster, redis) = Cluster::joined_behind_a_proxy(2, true, 1).await?;
    let mut other = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    other
        .send("__subscribe", "", json!({ "topic": "build.done:*" }))
        .await?;
    other.next_of("__subscribed").await?;
    let mut reader = Counting::begin(&cluster, 0, cluster.admin()).await?;
    reader
        .send("__subscribe", "", json!({ "topic": "build.done:7" }))
        .await?;
    reader.expect("__subscribed").await?;

    redis.hold();
    let (mut reader, _) = reader.cut().resume(&cluster, 1).await?;
    other.send("build.done", "7", json!({ "ok": true })).await?;
    other.next_of("build.done").await?;
    redis.heal();

    let gap = reader.expect("__gap").await?;
    ensure!(gap["payload"]["topic"] == "build.done:7", "{gap}");
    let event = reader.expect("build.done").await?;
    ensure!(event["payload"]["ok"] == true, "{event}");
    cluster.shutdown().await;
    Ok(())
}
