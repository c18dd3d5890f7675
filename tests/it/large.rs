//! A large output on its way between two hubs over a slow link: what it does not hold up.
//!
//! Between two hubs everything is sent in one order (decision 0056): what follows the output in the same direction
//! arrives after it. But that order applies only between these two hubs.

use std::time::Duration;

use alkhub_test_support::until;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::{Answer, Http};
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// The size of the output, nearly as large as one may be.
const LARGE_BYTES: usize = 1_000_000;

/// The longest time that each 64 KiB of it takes: less than it takes until a link on which nothing comes is given up.
const PIECE: Duration = Duration::from_secs(2);

/// Large outputs that wait for one link: more than its queue takes (8 MiB), and more than may wait of calls (16 MiB).
const MANY: usize = 24;

/// Small calls from one hub to a spoke of the same or another hub: all pairs but those between the two hubs of the
/// large output.
const PAIRS: [(usize, usize); 7] = [(0, 0), (0, 2), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)];
/// How often each of them is made in the meantime.
const ROUNDS: usize = 30;

/// A spoke on a hub that answers every call with the same text, until the hub closes.
async fn spoke(cluster: &Cluster, hub: usize, name: &str, output: String) -> Result<JoinHandle<Result<()>>> {
    let mut peer = Peer::connect(&cluster.url(hub), cluster.admin()).await?;
    peer.register(name, json!([operation(name, "get", "query")])).await?;
    Ok(TaskTracker::new().spawn(async move {
        while let Ok(message) = peer.next_or_closed().await? {
            if message["type"] == "call.requested" {
                let answer = json!({ "requestId": message["payload"]["requestId"], "output": output });
                peer.send("call.responded", "", answer).await?;
            }
        }
        Ok(())
    }))
}

fn large(caller: Http) -> JoinHandle<Result<Answer>> {
    TaskTracker::new().spawn(async move { caller.call("large.get", &Value::Null).await })
}

/// Waits until a hub has at least so many large outputs on their way to others.
async fn are_on_their_way(cluster: &Cluster, hub: usize, outputs: usize) {
    until("large outputs are on their way", || async {
        let metrics = cluster.managed(hub, "/metrics").await?;
        let gauge = "alkhub_conduit_unacknowledged_bytes ";
        let bytes = metrics.lines().find_map(|line| line.strip_prefix(gauge));
        match bytes.and_then(|bytes| bytes.parse::<usize>().ok()) {
            Some(bytes) if bytes >= outputs * LARGE_BYTES => Ok(()),
            bytes => Err(format!("{bytes:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_output_on_its_way_between_two_hubs_stops_no_call_that_goes_elsewhere() -> Result<()> {
    let (cluster, links) = Cluster::behind_links(3, true, |_| {}).await?;
    let mut spokes = vec![spoke(&cluster, 1, "large", "x".repeat(LARGE_BYTES)).await?];
    for hub in 0..3 {
        spokes.push(spoke(&cluster, hub, &format!("small{hub}"), "small".to_owned()).await?);
    }
    for hub in 0..3 {
        cluster.shows(hub, "\nalkhub_spoke_instances_known 4\n").await;
    }
    let callers = [0, 1, 2].map(|hub| Http::new(cluster.url(hub), cluster.admin()));
    // Only the first hub dialled the second one.
    let link = links[1].peer.as_ref().context("there are links")?;
    link.delay(PIECE);
    let large = large(callers[0].clone());
    are_on_their_way(&cluster, 1, 1).await;

    for _ in 0..ROUNDS {
        let calls = PAIRS.map(|(from, to)| {
            let caller = &callers[from];
            async move { caller.call(&format!("small{to}.get"), &Value::Null).await }
        });
        for answer in try_join_all(calls).await? {
            ensure!(answer.body["data"] == "small", "{answer:?}");
        }
    }

    ensure!(!large.is_finished(), "the small calls waited for the large one");
    link.heal();
    let answer = large.await??;
    let length = answer.body["data"].as_str().map(str::len);
    ensure!(
        (answer.status, length) == (200, Some(LARGE_BYTES)),
        "{} {length:?}",
        answer.status
    );
    cluster.shutdown().await;
    for spoke in spokes {
        spoke.await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_behind_large_outputs_that_fill_the_link_and_is_not_refused() -> Result<()> {
    let (cluster, links) = Cluster::behind_links(2, true, |_| {}).await?;
    let spokes = [
        spoke(&cluster, 1, "large", "x".repeat(LARGE_BYTES)).await?,
        spoke(&cluster, 0, "small", "small".to_owned()).await?,
    ];
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_spoke_instances_known 2\n").await;
    }
    let callers = [0, 1].map(|hub| Http::new(cluster.url(hub), cluster.admin()));
    let link = links[1].peer.as_ref().context("there are links")?;
    link.delay(PIECE);
    let outputs: Vec<_> = (0..MANY).map(|_| large(callers[0].clone())).collect();
    are_on_their_way(&cluster, 1, MANY).await;

    // The way of the outputs: from the second hub to the first.
    let caller = callers[1].clone();
    let small = TaskTracker::new().spawn(async move { caller.call("small.get", &Value::Null).await });
    cluster.shows(1, "\nalkhub_calls_in_flight 1\n").await;
    link.heal();

    let answer = small.await??;
    ensure!(answer.body["data"] == "small", "{answer:?}");
    for output in outputs {
        ensure!(output.await??.status == 200, "an output was lost");
    }
    cluster.shutdown().await;
    for spoke in spokes {
        spoke.await??;
    }
    Ok(())
}
