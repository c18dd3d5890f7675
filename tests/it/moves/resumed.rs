//! What was running continues, wherever its peer comes back.

use alkhub_test_support::{until, within};
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::counting::{Carrier, Counting, hubs, is_known_at};

/// The calls that a spoke is sent, keyed by their inputs.
async fn calls(spoke: &mut Counting, count: usize) -> Result<Vec<(String, Value)>> {
    let mut calls = Vec::new();
    for _ in 0..count {
        let call = spoke.expect("call.requested").await?;
        let input = call["payload"]["input"].as_str().context("an input")?;
        calls.push((input.to_owned(), call.clone()));
    }
    calls.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(calls)
}

async fn calls_that_run_both_ways_go_on(carrier: Carrier) -> Result<()> {
    let cluster = hubs(3, carrier).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let mut other = Peer::connect(&cluster.url(2), cluster.admin()).await?;
    other
        .register("other", json!([operation("other", "echo", "mutation")]))
        .await?;
    is_known_at(&cluster, 0, "other", 2).await;
    let http: Vec<Http> = (0..3).map(|hub| Http::new(cluster.url(hub), cluster.admin())).collect();
    let mut reader = Peer::connect(&cluster.url(2), cluster.admin()).await?;
    reader
        .send(
            "call.requested",
            "w",
            json!({ "operationId": "text.watch", "input": "watch" }),
        )
        .await?;
    let watch = spoke.expect("call.requested").await?;
    spoke.respond(&watch, json!("item 1")).await?;
    ensure!(reader.next().await?["payload"]["output"]["data"] == "item 1");
    spoke.ask("mine", "other.echo", json!("from the spoke")).await?;
    let asked = other.next_of("call.requested").await?;

    let inputs = [json!("a"), json!("b"), json!("c")];
    let (a, b, c) = (
        http[0].call("text.upper", &inputs[0]),
        http[1].call("text.upper", &inputs[1]),
        http[2].call("text.upper", &inputs[2]),
    );
    let moving = async {
        let running = calls(&mut spoke, 3).await?;
        let seen = spoke.cut();
        cluster
            .shows(0, "\nalkhub_connections{kind=\"reconnecting\"} 1\n")
            .await;
        let sent = seen.sent;
        let (mut spoke, received) = seen.resume(&cluster, 1).await?;
        ensure!(received == sent, "{received} of {sent} have arrived");
        // In both directions, and for each hub.
        spoke.respond(&watch, json!("item 2")).await?;
        for (input, call) in &running {
            spoke.respond(call, json!(input.to_uppercase())).await?;
        }
        let payload = json!({ "requestId": asked["payload"]["requestId"], "output": "to the spoke" });
        other.send("call.responded", "", payload).await?;
        let answer = spoke.expect("call.responded").await?;
        ensure!(answer["id"] == "mine", "{answer}");
        ensure!(answer["payload"]["output"]["data"] == "to the spoke", "{answer}");
        anyhow::Ok(spoke)
    };
    let (a, b, c, spoke) = within("all are answered", Box::pin(async { tokio::join!(a, b, c, moving) })).await;

    let mut spoke = spoke?;
    for (answer, output) in [(a?, "A"), (b?, "B"), (c?, "C")] {
        ensure!(answer.status == 200 && answer.body["data"] == output, "{answer:?}");
    }
    let id = watch["id"].as_str().context("an id")?;
    spoke.send("call.completed", id, json!({})).await?;
    ensure!(reader.next().await?["payload"]["output"]["data"] == "item 2");
    ensure!(reader.next().await?["type"] == "call.completed");
    // New calls go straight to where the spoke is.
    for hub in 0..http.len() {
        is_known_at(&cluster, hub, "text", 1).await;
        spoke.answers_at(&cluster, hub, "AGAIN").await?;
    }
    // Nothing of the session is left where it was.
    cluster.shows(0, "\nalkhub_connections{kind=\"left\"} 0\n").await;
    cluster.shows(0, "\nalkhub_calls_in_flight 0\n").await;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_run_both_ways_go_on_where_the_peer_comes_back_over_redis() -> Result<()> {
    Box::pin(calls_that_run_both_ways_go_on(Carrier::Redis)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_run_both_ways_go_on_where_the_peer_comes_back_over_a_link() -> Result<()> {
    Box::pin(calls_that_run_both_ways_go_on(Carrier::Link)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_where_it_began_however_often_its_spoke_moves() -> Result<()> {
    let cluster = hubs(3, Carrier::Link).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let (http, input) = (Http::new(cluster.url(0), cluster.admin()), json!("a"));

    let moving = async {
        let call = spoke.expect("call.requested").await?;
        for hub in [1, 2, 0] {
            let seen = spoke.cut();
            (spoke, _) = Box::pin(seen.resume(&cluster, hub)).await?;
        }
        spoke.respond(&call, json!("A")).await?;
        anyhow::Ok(spoke)
    };
    let (answer, spoke) = within(
        "it is answered",
        Box::pin(async { tokio::join!(http.call("text.upper", &input), moving) }),
    )
    .await;

    let (answer, spoke) = (answer?, spoke?);
    ensure!(answer.status == 200 && answer.body["data"] == "A", "{answer:?}");
    for hub in 0..3 {
        is_known_at(&cluster, hub, "text", 0).await;
        cluster.shows(hub, "\nalkhub_connections{kind=\"left\"} 0\n").await;
    }
    drop(spoke);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_when_its_spoke_moves_has_a_slot_there_until_it_ends() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let mut spoke = Counting::begin(&cluster, 0, cluster.admin()).await?;
    let operations = [operation("text", "upper", "mutation")];
    let input = json!({ "name": "text", "instanceId": "one", "concurrency": 1, "operations": operations });
    spoke.ask("register", "hub.register", input).await?;
    spoke.expect("call.responded").await?;
    let (here, there) = (
        Http::new(cluster.url(0), cluster.admin()),
        Http::new(cluster.url(1), cluster.admin()),
    );
    let input = json!("a");

    let moving = async {
        let call = spoke.expect("call.requested").await?;
        let (mut spoke, _) = Box::pin(spoke.cut().resume(&cluster, 1)).await?;
        is_known_at(&cluster, 1, "text", 1).await;
        let refused = there.call("text.upper", &input).await?;
        spoke.respond(&call, json!("A")).await?;
        anyhow::Ok((spoke, refused))
    };
    let (answer, moved) = within(
        "it is answered",
        Box::pin(async { tokio::join!(here.call("text.upper", &input), moving) }),
    )
    .await;

    let (answer, (mut spoke, refused)) = (answer?, moved?);
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(refused.body["code"] == "OVERLOADED", "{refused:?}");
    let answering = async {
        let call = spoke.expect("call.requested").await?;
        spoke.respond(&call, json!("A")).await
    };
    let calling = until("the slot is free again", || async {
        match there.call("text.upper", &input).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let (answered, ()) = tokio::join!(answering, calling);
    answered?;
    cluster.shutdown().await;
    Ok(())
}

/// The third hub learns of the move late: until then it needs the hub that the session has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_told_that_its_session_has_moved_when_every_hub_can_call_it_there() -> Result<()> {
    let mut cluster = hubs(2, Carrier::Redis).await?;
    let redis = cluster.redis.as_ref().context("there is Redis")?;
    let (proxy, through) = redis.proxied().await?;
    cluster
        .add(|config| config.events.redis_url = Some(through.into()))
        .await?;
    cluster.shows(0, "\nalkhub_events_hubs 3\n").await;
    cluster.shows(1, "\nalkhub_events_hubs 3\n").await;
    let spoke = Counting::spoke(&cluster, 0).await?;
    is_known_at(&cluster, 2, "text", 0).await;

    proxy.hold();
    let mut resuming = Box::pin(spoke.cut().resume(&cluster, 1));
    let moved = tokio::select! {
        biased;
        early = &mut resuming => Err(early),
        () = is_known_at(&cluster, 0, "text", 1) => Ok(()),
    };
    ensure!(moved.is_ok(), "the third hub cannot call it yet");
    proxy.heal();
    let (mut spoke, _) = within("the session goes on", resuming).await?;

    spoke.answers_at(&cluster, 2, "A").await?;
    drop(spoke);
    cluster.shutdown().await;
    Ok(())
}
