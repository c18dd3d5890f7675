//! A hub that dies without a word, with calls of another hub's callers on its spoke.

use std::sync::Arc;

use alkhub_sdk::{Failure, Operation, Spoke, Status};
use alkhub_test_support::{Proxy, RedisServer};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::{Result, ensure};
use serde_json::json;
use tokio::sync::Notify;

use crate::load::address;
use crate::stage::soon;

/// A call that runs until the test says so.
#[derive(Default)]
struct Handler {
    began: Notify,
    ends: Notify,
}

/// The answer is ready while the spoke looks for its session, and arrives by the third hub.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_that_a_spoke_holds_when_its_hub_dies_arrives_by_another_hub() -> Result<()> {
    let redis = RedisServer::start().await;
    let (wire, through) = redis.proxied().await?;
    let mut cluster = Cluster::empty(Some(redis)).await?;
    cluster.add(|_| {}).await?;
    cluster
        .add(|config| config.events.redis_url = Some(through.as_str().into()))
        .await?;
    cluster.add(|_| {}).await?;
    for hub in 0..3 {
        cluster.shows(hub, "\nalkhub_events_hubs 3\n").await;
    }
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
        // Nothing that it still has to say gets anywhere.
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
