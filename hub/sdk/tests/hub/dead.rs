//! A hub that dies without a word, while calls of another hub's callers run on its spoke, and while its client has
//! calls, subscriptions and topics there.

use std::sync::Arc;
use std::time::Duration;

use alkhub_sdk::{Client, Delivered, Delivery, Error, Failure, Operation, Spoke, Status};
use alkhub_test_support::{Proxy, RedisServer};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::load::address;
use crate::stage::{SOON, answer, asked, soon, upper};

/// How long it takes a client of a dead hub to know what became of its requests: the next hub looks for its session for
/// 3 s at most.
const KNOWN: Duration = Duration::from_secs(10);

/// A call that runs until the test says so.
#[derive(Default)]
struct Handler {
    began: Notify,
    ends: Notify,
}

/// Three hubs, and the link of the second one to Redis.
async fn three() -> Result<(Cluster, Proxy)> {
    let redis = RedisServer::start().await;
    let (wire, through) = redis.proxied().await?;
    let mut cluster = Cluster::empty(Some(redis)).await?;
    cluster.add(|_| {}).await?;
    cluster
        .add(|config| config.events.redis_url = Some(through.as_str().into()))
        .await?;
    cluster.add(|_| {}).await?;
    cluster.know_each_other(false).await;
    Ok((cluster, wire))
}

/// The answer is ready while the spoke looks for its session, and arrives through the third hub.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_that_a_spoke_holds_when_its_hub_dies_arrives_by_another_hub() -> Result<()> {
    let (cluster, wire) = three().await?;
    let link = Proxy::start(address(&cluster, 1)).await?;
    let handler = Arc::new(Handler::default());
    let runs = Arc::clone(&handler);
    let operation = Operation::mutation("text.upper", move |text: String| {
        let runs = Arc::clone(&runs);
        async move {
            runs.began.notify_one();
            runs.ends.notified().await;
            Ok::<_, Failure>(text.to_uppercase())
        }
    });
    let spoke = Spoke::builder(format!("http://{}", link.address())).token(cluster.admin());
    let spoke = spoke.name("text").sessions(1).operation(operation).start().await?;
    cluster.shows(0, "\nalkhub_spoke_instances_known 1\n").await;
    let (http, input) = (Http::new(cluster.url(0), cluster.admin()), json!("a"));

    let dying = async {
        handler.began.notified().await;
        // Whatever it still has to say reaches nobody.
        wire.cut();
        link.lead_to(address(&cluster, 2));
        let answering = async {
            let mut status = spoke.status();
            let lost = status.wait_for(|status| matches!(status, Status::Connecting(_)));
            soon("the connection is lost", lost).await.expect("the spoke runs");
            handler.ends.notify_one();
        };
        tokio::join!(cluster.hubs[1].kill(), answering)
    };
    let (answer, _) = soon("it is answered", async {
        tokio::join!(http.call("text.upper", &input), dying)
    })
    .await;

    let answer = answer?;
    ensure!(answer.status == 200 && answer.body["data"] == "A", "{answer:?}");
    spoke.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

/// The next abort: it may take as long as a lease, which is also how long a peer waits for a message.
async fn aborted(peer: &mut Peer) -> Result<Value> {
    match peer.next_of("call.aborted").await {
        Ok(aborted) => Ok(aborted),
        Err(_) => peer.next_of("call.aborted").await,
    }
}

/// Its running calls end with a truthful error, and it goes on through another hub by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_hub_dies_is_told_what_is_lost_and_follows_its_topics_on_another_hub() -> Result<()> {
    let (cluster, wire) = three().await?;
    let link = Proxy::start(address(&cluster, 1)).await?;
    let mut peer = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let operations = [("wait", "mutation"), ("ticks", "subscription")];
    let operations = operations.map(|(name, kind)| operation("slow", name, kind));
    peer.register("slow", json!(operations)).await?;
    let spoke = Spoke::builder(cluster.url(2)).token(cluster.admin()).name("text");
    let spoke = spoke.operation(Operation::query("text.upper", upper)).start().await?;
    let client = Client::builder(format!("http://{}", link.address())).token(cluster.admin());
    let client = client.timeout(SOON).build()?;
    let mut events = client.events("job:1").await?;
    let (items, ticks) = tokio::join!(client.subscribe::<_, u32>("slow.ticks", &()), asked(&mut peer));
    let (mut items, ticks) = (items?, ticks?);
    answer(&mut peer, &ticks, 1).await?;
    let first = soon("an item", items.next()).await.context("open")??;
    ensure!(first == 1, "{first}");
    let running = client.call::<_, Value>("slow.wait", &1);

    let dying = async {
        let wait = asked(&mut peer).await?;
        wire.cut();
        link.lead_to(address(&cluster, 2));
        cluster.hubs[1].kill().await;
        anyhow::Ok((wait, Instant::now()))
    };
    let (ran, dying) = tokio::join!(running, dying);
    let (wait, dead) = dying?;
    let rest: Vec<_> = soon("the subscription ends", items.collect()).await;
    let next = soon("a call is answered", client.call::<_, String>("text.upper", "a")).await;
    let gap = soon("a gap", events.next()).await.context("open")??;
    let took = dead.elapsed();

    let lost = ran.expect_err("its hub is dead");
    ensure!(
        matches!(lost, Error::Lost) && lost.delivered() == Delivered::Maybe,
        "{lost}"
    );
    ensure!(matches!(rest[..], [Err(Error::Lost)]), "{rest:?}");
    assert_eq!(next?, "A");
    ensure!(
        matches!(&gap, Delivery::Gap(gap) if gap.reason == "reconnected"),
        "{gap:?}"
    );
    ensure!(took < KNOWN, "{took:?}");
    let http = Http::new(cluster.url(0), cluster.admin());
    http.send("POST", "/v1/events/job/1", Some(&json!(7))).await?;
    let event = soon("an event", events.next()).await.context("open")??;
    ensure!(
        matches!(&event, Delivery::Event(event) if event.payload::<u32>()? == 7),
        "{event:?}"
    );
    // Nobody waits for them any more, which their hub knows once the lease of the dead one has expired.
    let mut stopped = [aborted(&mut peer).await?, aborted(&mut peer).await?];
    stopped.sort_by_key(|stopped| stopped["payload"]["requestId"] == wait["requestId"]);
    let stopped = stopped.map(|stopped| stopped["payload"]["requestId"].clone());
    assert_eq!(stopped, [ticks["requestId"].clone(), wait["requestId"].clone()]);
    client.close().await;
    spoke.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}
