//! What becomes of a call when something that it needs is lost without a word: its spoke, or its caller's hub. For
//! Redis and Postgres see `outages.rs`; docs/TESTING.md has the whole table.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_sdk::{Failure, Operation, Spoke};
use alkhub_test_support::{Proxy, RedisServer, within};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::{Answer, Http};
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

/// Long before any deadline of a call.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A spoke without the SDK that offers a query and a mutation.
async fn spoke(cluster: &Cluster, hub: usize) -> Result<Peer> {
    let mut peer = Peer::connect(&cluster.url(hub), cluster.admin()).await?;
    let operations = json!([operation("t", "get", "query"), operation("t", "set", "mutation")]);
    peer.register("t", operations).await?;
    Ok(peer)
}

/// A call that starts now, with a deadline of a minute.
fn call(cluster: &Cluster, hub: usize, operation: &'static str) -> JoinHandle<Result<Answer>> {
    let http = Http::new(cluster.url(hub), cluster.admin());
    TaskTracker::new().spawn(async move {
        let path = format!("/v1/call/{operation}");
        let limit = [("alkhub-timeout", "60000")];
        http.send_with("POST", &path, Some(&json!(operation)), &limit).await
    })
}

async fn answered(call: JoinHandle<Result<Answer>>) -> Result<Answer> {
    timeout(AT_ONCE, call).await.context("not at once")??
}

async fn asked(peer: &mut Peer) -> Result<Value> {
    Ok(peer.next_of("call.requested").await?["payload"].take())
}

async fn answer(peer: &mut Peer, call: &Value) -> Result<()> {
    let payload = json!({ "requestId": call["requestId"], "output": call["input"] });
    peer.send("call.responded", "", payload).await
}

/// A program that offers the mutation `t.set`, counts how often it runs, and comes back to its session.
async fn offers_set(url: String, cluster: &Cluster, runs: &Arc<AtomicUsize>) -> Result<Spoke> {
    let runs = Arc::clone(runs);
    let set = move |text: String| {
        runs.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, Failure>(text) }
    };
    let spoke = Spoke::builder(url).token(cluster.admin()).name("t").sessions(1);
    Ok(spoke.operation(Operation::mutation("t.set", set)).start().await?)
}

async fn know(cluster: &Cluster, instances: usize) {
    for hub in 0..cluster.hubs.len() {
        let line = format!("\nalkhub_spoke_instances_known {instances}\n");
        cluster.shows(hub, &line).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_what_only_a_killed_spoke_offered_is_told_at_once() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let killed = spoke(&cluster, 0).await?;
    know(&cluster, 1).await;

    drop(killed);
    know(&cluster, 0).await;

    for hub in 0..2 {
        for operation in ["t.get", "t.set"] {
            let answer = answered(call(&cluster, hub, operation)).await?;
            let told = (answer.status, &answer.body["code"], &answer.body["delivered"]);
            ensure!(told == (503, &json!("NO_PROVIDER"), &json!("no")), "{answer:?}");
        }
    }
    cluster.shutdown().await;
    Ok(())
}

/// The call waits for the spoke, which may come back, and is sent to another instance as soon as there is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_a_killed_spoke_never_got_goes_to_another_instance() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let link = Proxy::start(cluster.url(0).replacen("http://", "", 1)).await?;
    let (ran, runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let killed = offers_set(format!("http://{}", link.address()), &cluster, &ran).await?;
    know(&cluster, 1).await;

    link.cut();
    cluster.shows(0, "\nalkhub_spokes_reconnecting 1\n").await;
    drop(killed);
    let calls = [call(&cluster, 0, "t.set"), call(&cluster, 1, "t.set")];
    cluster.shows(0, "\nalkhub_calls_in_flight 2\n").await;
    let _other = offers_set(cluster.url(1), &cluster, &runs).await?;

    for call in calls {
        let answer = answered(call).await?;
        ensure!(answer.body["data"] == "t.set", "{answer:?}");
    }
    let of_both = [ran, runs].map(|runs| runs.load(Ordering::SeqCst));
    assert_eq!(of_both, [0, 2]);
    cluster.shutdown().await;
    Ok(())
}

/// The mutation may have taken effect, so the hub does not send it again. A query changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_a_killed_spoke_had_is_lost_at_once_and_a_query_goes_to_another_instance() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let mut killed = spoke(&cluster, 0).await?;
    know(&cluster, 1).await;
    let [queries, mutations] = ["t.get", "t.set"].map(|name| [0, 1].map(|hub| call(&cluster, hub, name)));
    for _ in 0..4 {
        asked(&mut killed).await?;
    }
    let mut other = spoke(&cluster, 1).await?;
    know(&cluster, 2).await;

    drop(killed);

    for call in mutations {
        let answer = answered(call).await?;
        let told = (answer.status, &answer.body["code"], &answer.body["delivered"]);
        ensure!(told == (502, &json!("SPOKE_LOST"), &json!("maybe")), "{answer:?}");
    }
    for _ in &queries {
        let again = asked(&mut other).await?;
        ensure!(again["operationId"] == "t.get", "{again}");
        answer(&mut other, &again).await?;
    }
    for call in queries {
        let answer = answered(call).await?;
        ensure!(answer.body["data"] == "t.get", "{answer:?}");
    }
    know(&cluster, 1).await;
    let http = Http::new(cluster.url(0), cluster.admin());
    let input = json!("the next that it gets");
    let (called, seen) = tokio::join!(http.call("t.get", &input), async {
        let asked = asked(&mut other).await?;
        answer(&mut other, &asked).await?;
        anyhow::Ok(asked)
    });
    assert_eq!((called?.status, &seen?["input"]), (200, &input));
    cluster.shutdown().await;
    Ok(())
}

async fn a_callers_hub_dies(linked: bool) -> Result<()> {
    const LEASE: Duration = Duration::from_secs(2);
    let redis = RedisServer::start().await;
    let (wire, through) = redis.proxied().await?;
    let mut cluster = Cluster::empty(Some(redis)).await?;
    for hub in 0..2 {
        let change = |config: &mut HubConfig| {
            config.server.peer_listen = linked.then(|| ([127, 0, 0, 1], 0).into());
            config.events.lease_ttl = LEASE;
            config.events.lease_interval = LEASE / 4;
            if hub == 0 {
                config.events.redis_url = Some(through.as_str().into());
            }
        };
        cluster.add(change).await?;
    }
    cluster.know_each_other(linked).await;
    let mut spoke = spoke(&cluster, 1).await?;
    know(&cluster, 1).await;
    let calls = ["t.get", "t.set"].map(|operation| call(&cluster, 0, operation));
    let mut running = [asked(&mut spoke).await?, asked(&mut spoke).await?].map(|call| call["requestId"].to_string());

    let killed = Instant::now();
    // The other hubs hear no more from it than from a killed process.
    wire.cut();
    cluster.hubs[0].kill().await;
    let mut stopped = [(); 2].map(|()| String::new());
    for stopped in &mut stopped {
        *stopped = spoke.next_of("call.aborted").await?["payload"]["requestId"].to_string();
    }

    let took = killed.elapsed();
    ensure!(took < LEASE + AT_ONCE, "{took:?}");
    running.sort_unstable();
    stopped.sort_unstable();
    assert_eq!(running, stopped);
    cluster.shows(1, "\nalkhub_calls_in_flight 0\n").await;
    for call in calls {
        // A hub that ends inside this process still answers, whereas a killed one breaks the connection.
        if let Ok(answer) = within("the caller hears of it", call).await? {
            let told = (&answer.body["code"], &answer.body["delivered"]);
            ensure!(told == (&json!("UNAVAILABLE"), &json!("maybe")), "{answer:?}");
        }
    }
    cluster.hubs[1].shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_hub_that_dies_are_stopped_at_their_spokes_over_redis() -> Result<()> {
    Box::pin(a_callers_hub_dies(false)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_hub_that_dies_are_stopped_at_their_spokes_over_a_link() -> Result<()> {
    Box::pin(a_callers_hub_dies(true)).await
}
