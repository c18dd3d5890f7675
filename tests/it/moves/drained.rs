//! What a draining hub waits for in addition to its own calls: calls of other hubs that run on its peers, and sessions
//! on their way.

use alkhub_test_support::within;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::Peer;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::counting::{Carrier, Counting, Seen, hubs, is_known_at};

/// Sends a registration that its hub cannot finish, so that its session is not settled.
async fn register_in_vain(spoke: &mut Counting) -> Result<()> {
    let operations = [
        alkhub_tests::wire::operation("text", "upper", "mutation"),
        alkhub_tests::wire::operation("text", "watch", "subscription"),
    ];
    let input = json!({ "name": "text", "instanceId": "one", "operations": operations });
    spoke.ask("again", "hub.register", input).await?;
    // When this is answered, everything sent before has been read.
    spoke.ask("read", "hub.nothing", json!(null)).await?;
    let answer = spoke.expect("call.error").await?;
    ensure!(answer["id"] == "read", "{answer}");
    Ok(())
}

/// Asks for a session until it comes; if told to try again, it does so after `between`.
async fn tries_again(seen: &Seen, cluster: &Cluster, hub: usize, between: impl Fn()) -> Result<Value> {
    loop {
        let mut peer = Peer::connect(&cluster.url(hub), &seen.key).await?;
        peer.send("__hello", "", seen.hello()).await?;
        let answer = peer.next().await?;
        if answer["type"] == "__welcome" {
            return Ok(answer);
        }
        ensure!(answer["payload"]["retryable"] == true, "{answer}");
        between();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_drains_waits_for_the_calls_of_other_hubs_that_run_on_its_peers() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let mut bystander = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    let (http, input) = (Http::new(cluster.url(0), cluster.admin()), json!("a"));

    let moving = async {
        let call = spoke.expect("call.requested").await?;
        let (mut spoke, _) = Box::pin(spoke.cut().resume(&cluster, 1)).await?;
        is_known_at(&cluster, 0, "text", 1).await;
        let draining = async {
            ensure!(bystander.closed().await?.0 == 1001, "it drains");
            spoke.respond(&call, json!("A")).await?;
            ensure!(spoke.peer.closed().await?.0 == 1001, "it has ended");
            Ok(())
        };
        tokio::join!(cluster.hubs[1].shutdown(), draining).1
    };
    let (answer, moved) = within(
        "it is answered",
        Box::pin(async { tokio::join!(http.call("text.upper", &input), moving) }),
    )
    .await;

    let answer = answer?;
    ensure!(answer.status == 200 && answer.body["data"] == "A", "{answer:?}");
    moved?;
    cluster.shutdown().await;
    Ok(())
}

/// Each spoke alone offers its operations, so its hub would have calls for it until the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_drains_lets_plain_spokes_go_each_after_its_calls() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let (http, input) = (Http::new(cluster.url(1), cluster.admin()), json!("a"));
    let mut spokes = Vec::new();
    for name in ["busy", "idle"] {
        let mut spoke = Peer::connect(&cluster.url(0), cluster.admin()).await?;
        let offers = json!([alkhub_tests::wire::operation(name, "work", "mutation")]);
        spoke.register(name, offers).await?;
        is_known_at(&cluster, 1, name, 0).await;
        spokes.push(spoke);
    }
    let [busy, idle] = &mut spokes[..] else {
        unreachable!("two")
    };

    let draining = async {
        let call = busy.next_of("call.requested").await?;
        let closing = async {
            ensure!(idle.closed().await?.0 == 1001, "it can go");
            let answer = json!({ "requestId": call["payload"]["requestId"], "output": "A" });
            busy.send("call.responded", "", answer).await?;
            ensure!(busy.closed().await?.0 == 1001, "it can go now");
            Ok(())
        };
        tokio::join!(cluster.hubs[0].shutdown(), closing).1
    };
    let both = Box::pin(async { tokio::join!(http.call("busy.work", &input), draining) });
    let (answer, closed) = within("both are over", both).await;

    closed?;
    let answer = answer?;
    ensure!(answer.status == 200 && answer.body["data"] == "A", "{answer:?}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_when_its_hub_drains_goes_on_on_another_hub() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let spoke = Counting::spoke(&cluster, 0).await?;
    let mut bystander = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let seen = spoke.cut();
    cluster
        .shows(0, "\nalkhub_connections{kind=\"reconnecting\"} 1\n")
        .await;

    let coming = async {
        ensure!(bystander.closed().await?.0 == 1001, "it drains");
        let (mut spoke, _) = seen.resume(&cluster, 1).await?;
        spoke.answers_at(&cluster, 1, "A").await
    };
    let (came, ()) = within(
        "it comes, and the hub ends",
        Box::pin(async { tokio::join!(coming, cluster.hubs[0].shutdown()) }),
    )
    .await;

    came?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_drains_waits_for_a_session_that_is_on_its_way_to_another_hub() -> Result<()> {
    let (cluster, proxy) = Cluster::joined_behind_a_proxy(2, true, 0).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    proxy.hold();
    register_in_vain(&mut spoke).await?;
    let seen = spoke.cut();
    cluster
        .shows(0, "\nalkhub_connections{kind=\"reconnecting\"} 1\n")
        .await;

    let (welcome, ()) = within(
        "it comes, and the hub ends",
        Box::pin(async {
            // The first one is refused: the session cannot move while its registration is under way.
            let comes = tries_again(&seen, &cluster, 1, || proxy.heal());
            tokio::join!(comes, cluster.hubs[0].shutdown())
        }),
    )
    .await;

    let welcome = welcome?;
    ensure!(welcome["payload"]["sessionId"] == seen.id.as_str(), "{welcome}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_to_its_session_while_a_hub_drains_is_asked_to_move_on() -> Result<()> {
    let (cluster, proxy) = Cluster::joined_behind_a_proxy(2, true, 1).await?;
    let mut bystander = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let mut spoke = Counting::spoke_with(&cluster, 1, &["resume", "migrate"]).await?;
    proxy.hold();
    register_in_vain(&mut spoke).await?;
    let seen = spoke.cut();
    cluster
        .shows(1, "\nalkhub_connections{kind=\"reconnecting\"} 1\n")
        .await;
    let mut late = Peer::connect(&cluster.url(0), &seen.key).await?;
    let mut hello = seen.hello();
    hello["features"] = json!(["resume", "migrate"]);

    let coming = async {
        late.send("__hello", "", hello.clone()).await?;
        ensure!(bystander.closed().await?.0 == 1001, "it drains");
        proxy.heal();
        let came = loop {
            let message = late.next().await?;
            // On a slow machine the other hub has not answered in time, and the peer is to ask again.
            if message["type"] == "__error" && message["payload"]["retryable"] == true {
                late.send("__hello", "", hello.clone()).await?;
            }
            if message["type"] == "__resume" {
                break message;
            }
        };
        let asked = late.next_of("hub.migrate").await?;
        let (spoke, _) = seen.resume(&cluster, 1).await?;
        ensure!(late.closed().await?.0 == 4001, "{came} {asked}");
        anyhow::Ok(spoke)
    };
    let (spoke, ()) = within(
        "it comes and goes, and the hub ends",
        Box::pin(async { tokio::join!(coming, cluster.hubs[0].shutdown()) }),
    )
    .await;

    drop(spoke?);
    cluster.shutdown().await;
    Ok(())
}
