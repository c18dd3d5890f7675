//! Calls that cross hubs, on the origin's wire.

use std::time::Duration;

use alkhub_test_support::until;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::Result;
use serde_json::{Value, json};

/// Waits until a hub knows a provider of an operation.
async fn known(http: &Http, operation: &str) {
    let path = format!("/v1/operations/{operation}");
    until(&format!("{operation} is known"), || async {
        let answer = http.send("GET", &path, None).await.map_err(|e| e.to_string())?;
        let known = answer.status == 200
            && answer.body["data"]["spokes"]
                .as_array()
                .is_some_and(|spokes| !spokes.is_empty());
        if known { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

/// A spoke on one hub and a client of another.
async fn pair(operations: Value) -> Result<(Cluster, Peer, Http)> {
    let cluster = Cluster::start(2).await?;
    let mut spoke = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    spoke.register("t", operations.clone()).await?;
    let http = Http::new(cluster.url(0), cluster.admin());
    for spec in operations.as_array().expect("a list") {
        known(&http, &format!("t.{}", spec["name"].as_str().expect("a name"))).await;
    }
    Ok((cluster, spoke, http))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_one_hub_reaches_a_spoke_on_another() -> Result<()> {
    let (cluster, mut spoke, http) = pair(json!([operation("t", "echo", "query")])).await?;

    let caller =
        tokio_util::task::TaskTracker::new().spawn(async move { http.call("t.echo", &json!({"a": [1]})).await });
    let asked = spoke.echo().await?;
    let answer = caller.await??;

    assert_eq!(
        asked["id"], "",
        "the spoke spoke the origin's dialect and is asked in it"
    );
    assert_eq!(asked["payload"]["operationId"], "t.echo");
    assert_eq!((answer.status, &answer.body["data"]), (200, &json!({"a": [1]})));
    assert_eq!(answer.body["meta"]["source"], "local");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_reaches_the_spoke_on_another_hub_as_an_abort() -> Result<()> {
    let (cluster, mut spoke, http) = pair(json!([operation("t", "slow", "query")])).await?;

    let caller = tokio_util::task::TaskTracker::new().spawn(async move {
        http.send_with("POST", "/v1/call/t.slow", Some(&json!(1)), &[("Alkhub-Timeout", "3s")])
            .await
    });
    let asked = spoke.next_of("call.requested").await?;
    let aborted = spoke.next_of("call.aborted").await?;
    let answer = caller.await??;

    assert_eq!(aborted["payload"]["requestId"], asked["payload"]["requestId"]);
    assert_eq!((answer.status, &answer.body["code"]), (504, &json!("TIMEOUT")));
    assert_eq!(answer.body["type"], "urn:alkhub:problem:TIMEOUT");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_aborts_its_call_at_the_spoke() -> Result<()> {
    let (cluster, mut spoke, _) = pair(json!([operation("t", "slow", "query")])).await?;
    let mut caller = Peer::connect(&cluster.url(0), cluster.admin()).await?;

    caller
        .send("call.requested", "c1", json!({"operationId": "t.slow", "input": null}))
        .await?;
    let asked = spoke.next_of("call.requested").await?;
    drop(caller);
    let aborted = spoke.next_of("call.aborted").await?;

    assert_eq!(aborted["payload"]["requestId"], asked["payload"]["requestId"]);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_spoke_fails_its_calls_at_once() -> Result<()> {
    let (cluster, mut spoke, http) = pair(json!([operation("t", "slow", "mutation")])).await?;

    let caller = tokio_util::task::TaskTracker::new().spawn(async move { http.call("t.slow", &json!(1)).await });
    spoke.next_of("call.requested").await?;
    drop(spoke);
    let answer = tokio::time::timeout(Duration::from_secs(5), caller).await???;

    assert_eq!((answer.status, &answer.body["code"]), (502, &json!("SPOKE_LOST")));
    assert_eq!(answer.body["delivered"], "maybe");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_streams_across_hubs_in_order_and_ends() -> Result<()> {
    let (cluster, mut spoke, http) = pair(json!([operation("t", "watch", "subscription")])).await?;

    let mut stream = http.sse("POST", "/v1/call/t.watch", Some(&json!({}))).await?;
    let asked = spoke.next_of("call.requested").await?;
    let id = asked["payload"]["requestId"].clone();
    for n in 0..100 {
        spoke
            .send("call.responded", "", json!({"requestId": id, "output": n}))
            .await?;
    }
    spoke.send("call.completed", "", json!({"requestId": id})).await?;

    for n in 0..100 {
        let event = stream.next().await?.expect("an item");
        let item: Value = serde_json::from_str(&event.data)?;
        assert_eq!((event.event.as_str(), &item["data"]), ("next", &json!(n)));
    }
    assert_eq!(stream.next().await?.expect("the end").event, "complete");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_a_subscription_stops_the_spoke() -> Result<()> {
    let (cluster, mut spoke, http) = pair(json!([operation("t", "watch", "subscription")])).await?;

    let stream = http.sse("POST", "/v1/call/t.watch", Some(&json!({}))).await?;
    let asked = spoke.next_of("call.requested").await?;
    drop(stream);
    let aborted = spoke.next_of("call.aborted").await?;

    assert_eq!(aborted["payload"]["requestId"], asked["payload"]["requestId"]);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_of_an_instance_replaces_the_first_on_any_hub() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let input = json!({"name": "t", "instanceId": "i1", "operations": [operation("t", "echo", "query")]});
    let payload = json!({"requestId": "r", "operationId": "hub.register", "input": input});
    let mut first = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    first.send("call.requested", "", payload.clone()).await?;
    let one = first.next_of("call.responded").await?;

    let mut second = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    second.send("call.requested", "", payload).await?;
    let two = second.next_of("call.responded").await?;
    let (code, reason) = first.closed().await?;

    let generation = |answer: &Value| answer["payload"]["output"]["data"]["generation"].as_u64();
    assert!(generation(&two) > generation(&one), "{one} {two}");
    assert_eq!(code, 4409, "{reason}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_of_a_spoke_share_its_calls() -> Result<()> {
    const CALLS: usize = 64;
    let cluster = Cluster::start(2).await?;
    let spoke = async |hub| {
        let mut spoke = Peer::connect(&cluster.url(hub), cluster.admin()).await?;
        spoke.register("t", json!([operation("t", "echo", "query")])).await?;
        anyhow::Ok(spoke)
    };
    let spokes = [spoke(0).await?, spoke(1).await?];
    let http = Http::new(cluster.url(0), cluster.admin());
    until("both instances are known", || async {
        let answer = http.send("GET", "/v1/spokes", None).await.map_err(|e| e.to_string())?;
        let instances = answer.body["data"][0]["instances"].as_array().map_or(0, Vec::len);
        if instances == 2 {
            Ok(())
        } else {
            Err(answer.body.to_string())
        }
    })
    .await;

    let mut clients = Vec::new();
    for _ in 0..CALLS {
        let http = http.clone();
        clients.push(tokio_util::task::TaskTracker::new().spawn(async move { http.call("t.echo", &json!(1)).await }));
    }
    // Nobody answers: with 64 waiting calls, both spokes have been chosen. All calls must have arrived before the
    // spokes leave, because a call that comes later has nowhere to go.
    let [mut one, mut two] = spokes;
    let mut asked = [0, 0];
    while asked.iter().sum::<usize>() < CALLS {
        let (spoke, envelope) = tokio::select! {
            envelope = one.next() => (0, envelope?),
            envelope = two.next() => (1, envelope?),
        };
        asked[spoke] += usize::from(envelope["type"] == "call.requested");
    }
    assert!(asked.iter().all(|calls| *calls > 0), "{asked:?}");

    drop((one, two));
    for client in clients {
        assert_eq!(client.await??.body["code"], "SPOKE_LOST");
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_call_is_recorded_without_its_payloads() -> Result<()> {
    let (cluster, mut spoke, http) = pair(json!([operation("t", "echo", "query")])).await?;

    let calling = http.clone();
    let caller =
        tokio_util::task::TaskTracker::new().spawn(async move { calling.call("t.echo", &json!("hunter2")).await });
    let asked = spoke.next_of("call.requested").await?;
    let id = asked["payload"]["requestId"].clone();
    spoke
        .send("call.responded", "", json!({"requestId": id, "output": "hunter2"}))
        .await?;
    caller.await??;
    let record = until("the call is recorded", || async {
        let answer = http
            .send("GET", "/v1/calls?operation=t.echo", None)
            .await
            .map_err(|e| e.to_string())?;
        answer.body["data"]
            .get(0)
            .cloned()
            .ok_or_else(|| answer.body.to_string())
    })
    .await;

    assert_eq!(
        (&record["operation"], &record["status"]),
        (&json!("t.echo"), &json!("completed"))
    );
    assert_eq!((&record["spoke"], &record["inputBytes"]), (&json!("t"), &json!(9)));
    assert!(!record.to_string().contains("hunter2"));
    cluster.shutdown().await;
    Ok(())
}
