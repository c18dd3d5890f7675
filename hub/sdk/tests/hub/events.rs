//! Event streams of a client: refusals, gaps, reconnects, and readers that do not read.

use alkhub_sdk::{Code, Delivery, Events, Gap};
use alkhub_test_support::until;
use alkhub_tests::http::Http;
use anyhow::{Context as _, Result, bail, ensure};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};

use crate::stage::{Stage, soon};

async fn publish(http: &Http, topic: &str, payload: &Value) -> Result<()> {
    let path = format!("/v1/events/{}", topic.replacen(':', "/", 1));
    let answer = http.send("POST", &path, Some(payload)).await?;
    ensure!(answer.status < 300, "{answer:?}");
    Ok(())
}

async fn next(events: &mut Events) -> Result<Delivery> {
    Ok(soon("a delivery", events.next()).await.context("open")??)
}

/// The payload of the event that must come next.
async fn event(events: &mut Events) -> Result<Value> {
    match next(events).await? {
        Delivery::Event(event) => Ok(event.payload()?),
        Delivery::Gap(gap) => bail!("a gap: {gap:?}"),
    }
}

/// The gap that must come next.
async fn gap(events: &mut Events) -> Result<Gap> {
    match next(events).await? {
        Delivery::Gap(gap) => Ok(gap),
        Delivery::Event(event) => bail!("an event: {event:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_followed_again_in_a_new_session_and_a_gap_says_so() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let http = stage.http();
    let client = stage.client();
    let mut events = client.events("job:1").await?;
    publish(&http, "job:1", &json!(1)).await?;
    let first = event(&mut events).await?;

    stage.break_link();
    let gap = gap(&mut events).await?;
    publish(&http, "job:1", &json!(2)).await?;
    let second = event(&mut events).await?;

    assert_eq!((first, second), (json!(1), json!(2)));
    assert_eq!((gap.topic.as_str(), gap.reason.as_str()), ("job:1", "reconnected"));
    drop(events);
    until("the hub has no subscription", || async {
        match stage.metric("alkhub_events_subscriptions").await {
            Ok(count) if count == "0" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_when_its_topic_is_refused_in_a_new_session_while_redis_is_away() -> Result<()> {
    let mut stage = Stage::forgetful().await?;
    let client = stage.client();
    let mut events = client.events("job:1").await?;
    stage.cluster.redis.as_mut().context("it has one")?.kill().await;
    until("the hub knows that Redis is away", || async {
        match stage.cluster.hubs[0].away() {
            away if away.iter().any(|(what, _)| *what == "Redis") => Ok(()),
            away => Err(format!("{away:?}")),
        }
    })
    .await;

    stage.break_link();
    // A new stream waits for the new connection, on which the old one's topic is requested first.
    let refused = soon("an answer", client.events("job:2")).await;
    stage.cluster.redis.as_mut().context("it has one")?.launch().await;
    let gap = gap(&mut events).await?;
    publish_until_taken(&stage.http()).await?;

    assert_eq!(refused.expect_err("Redis is away").code(), Some(&Code::Unavailable));
    assert_eq!(gap.topic, "job:1");
    // Events are sent again before the topic is confirmed, or after: in between there may be gaps, but no end.
    let end = async {
        loop {
            if let Delivery::Event(event) = next(&mut events).await? {
                return anyhow::Ok(event.payload::<Value>()?);
            }
        }
    };
    assert_eq!(end.await?, json!("back"));
    Ok(())
}

async fn publish_until_taken(http: &Http) -> Result<()> {
    until("an event is taken", || async {
        publish(http, "job:1", &json!("back")).await.map_err(|e| e.to_string())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_topic_is_the_answer_to_its_subscriber_and_to_no_other() -> Result<()> {
    let stage = Stage::start().await?;
    let (_, key) = stage
        .key(json!({ "name": "k", "scopes": ["events:subscribe:job"] }))
        .await?;
    let client = stage.client_with(&key);
    let mut allowed = client.events("job:1").await?;

    let refused = client.events("secret:1").await;

    assert_eq!(refused.expect_err("no scope").code(), Some(&Code::AccessDenied));
    publish(&stage.http(), "job:1", &json!(1)).await?;
    assert_eq!(event(&mut allowed).await?, json!(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_keeps_the_newest_and_says_how_many_went() -> Result<()> {
    let stage = Stage::start().await?;
    let http = stage.http();
    let client = stage.client();
    let mut unread = client.events("large:1").await?;
    let mut read = client.events("end:1").await?;
    let large = "x".repeat(900_000);

    for number in 0..20 {
        publish(&http, "large:1", &json!([number, large])).await?;
    }
    publish(&http, "end:1", &json!(null)).await?;
    // On the same connection, so what was published before it has arrived.
    event(&mut read).await?;

    let mut gaps = 0;
    let first = loop {
        match next(&mut unread).await? {
            Delivery::Gap(gap) => {
                assert_eq!(gap.reason, "overflow");
                gaps += gap.missed.context("counted")?;
            }
            Delivery::Event(event) => break event,
        }
    };
    let first = first.payload::<(u64, String)>()?.0;
    assert!(gaps > 0, "8 MiB are kept, and 18 MB came");
    assert_eq!(first, gaps);
    for number in first + 1..20 {
        let payload = event(&mut unread).await?;
        assert_eq!(payload[0], json!(number));
    }
    assert!(unread.next().now_or_never().is_none());
    Ok(())
}
