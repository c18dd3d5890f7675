//! A hub learns of a claim when nobody waits for it any more.

use alkhub_test_support::{Proxy, within};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::{Result, ensure};
use serde_json::json;

use super::counting::Counting;

/// A peer that has asked another hub for its session in vain, and has come back to the hub that has it. That hub has
/// not heard of the claim, because Redis is held back from it.
async fn back_before_its_claim(spoke: Counting, cluster: &Cluster, redis: &Proxy) -> Result<Counting> {
    redis.hold();
    let seen = spoke.cut();
    let (code, message, _) = seen.refused(cluster, 1).await?;
    ensure!(code == "UNAVAILABLE", "{code}: {message}");
    let (spoke, _) = seen.resume(cluster, 0).await?;
    Ok(spoke)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_given_for_a_claim_whose_time_is_over_waits_there_with_its_calls() -> Result<()> {
    let (cluster, redis) = Cluster::joined_behind_a_proxy(2, false, 0).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let (http, input) = (Http::new(cluster.url(0), cluster.admin()), json!("a"));

    let moving = async {
        let call = spoke.expect("call.requested").await?;
        let mut spoke = back_before_its_claim(spoke, &cluster, &redis).await?;
        redis.heal();
        let (code, reason) = spoke.peer.closed().await?;
        ensure!(code == 4001, "{code}: {reason}");
        let mut spoke = spoke.cut().comes_back(&cluster, 1).await?;
        spoke.respond(&call, json!("A")).await?;
        anyhow::Ok(spoke)
    };
    let both = Box::pin(async { tokio::join!(http.call("text.upper", &input), moving) });
    let (answer, spoke) = within("the call is answered", both).await;

    let (answer, mut spoke) = (answer?, spoke?);
    ensure!(answer.status == 200 && answer.body["data"] == "A", "{answer:?}");
    spoke.answers_at(&cluster, 1, "B").await?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_says_less_than_its_peer_has_said_since_disturbs_nobody() -> Result<()> {
    let (cluster, redis) = Cluster::joined_behind_a_proxy(2, false, 0).await?;
    let spoke = Counting::spoke(&cluster, 0).await?;
    let mut other = spoke.seen.clone();
    other.id = "5f".repeat(16);
    let mut spoke = back_before_its_claim(spoke, &cluster, &redis).await?;
    for id in ["first", "second"] {
        spoke.ask(id, "hub.nothing", json!(null)).await?;
        spoke.expect("call.error").await?;
        // It is read before the second call, which is answered.
        let count = spoke.seen.received;
        spoke.peer.send("__ack", "", json!({ "count": count })).await?;
    }

    redis.heal();
    // This claim is made after the other one, and answered after it.
    let (code, message, _) = other.refused(&cluster, 1).await?;

    ensure!(code == "NOT_FOUND", "{code}: {message}");
    spoke.answers_at(&cluster, 0, "A").await?;
    spoke.answers_at(&cluster, 1, "B").await?;
    cluster.shutdown().await;
    Ok(())
}
