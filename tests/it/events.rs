//! Events that cross hubs, and what Redis shows of them.

use std::time::Duration;

use alkhub_test_support::RedisServer;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::Peer;
use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_published_after_the_acknowledgement_is_seen_on_another_hub() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let mut reader = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    let writer = Http::new(cluster.url(0), cluster.admin());

    reader.send("__subscribe", "", json!({"topic": "job.done:7"})).await?;
    let confirmed = reader.next().await?;
    let published = writer
        .send("POST", "/v1/events/job.done/7", Some(&json!({"ok": true})))
        .await?;
    let event = reader.next().await?;

    assert_eq!(
        (&confirmed["type"], &confirmed["payload"]["topic"]),
        (&json!("__subscribed"), &json!("job.done:7"))
    );
    assert!(published.status < 300, "{published:?}");
    assert_eq!(event, json!({"type": "job.done", "id": "7", "payload": {"ok": true}}));
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_the_origin_exchanges_events_over_redis_alone() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let redis = cluster.redis.as_ref().context("a cluster has Redis")?;
    let mut reader = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    reader
        .send("__subscribe", "", json!({"topic": "session.status:p1"}))
        .await?;
    reader.next_of("__subscribed").await?;
    let mut foreign = redis.listener().await;
    foreign.subscribe("alk:events:session.status:p2").await?;

    let text = r#"{"type":"session.status","id":"p1","payload":{"n":1}}"#;
    redis
        .query::<()>(&["PUBLISH", "alk:events:session.status:p1", text])
        .await;
    let seen = reader.next_of("session.status").await?;
    Http::new(cluster.url(0), cluster.admin())
        .send("POST", "/v1/events/session.status/p2", Some(&json!(2)))
        .await?;
    let message = tokio::time::timeout(Duration::from_secs(10), foreign.on_message().next())
        .await?
        .context("one")?;
    let message: Value = serde_json::from_str(&message.get_payload::<String>()?)?;

    assert_eq!(seen["payload"], json!({"n": 1}));
    assert_eq!(
        (&message["type"], &message["id"], &message["payload"]),
        (&json!("session.status"), &json!("p2"), &json!(2))
    );
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hubs_with_different_prefixes_share_a_redis_and_nothing_else() -> Result<()> {
    let mut cluster = Cluster::empty(Some(RedisServer::start().await)).await?;
    for name in ["a", "b"] {
        cluster
            .add(|config| {
                config.events.prefix = format!("alk:{name}:hub:").parse().expect("a prefix");
                config.store.schema = format!("alk_{name}_hub").parse().expect("a schema");
            })
            .await?;
    }
    let redis = cluster.redis.as_ref().context("a cluster has Redis")?;
    let mut everything = redis.listener().await;
    everything.psubscribe("*").await?;
    let mut readers = Vec::new();
    for hub in 0..2 {
        let mut reader = Peer::connect(&cluster.url(hub), cluster.admin()).await?;
        reader.send("__subscribe", "", json!({"topic": "t:1"})).await?;
        reader.next_of("__subscribed").await?;
        readers.push(reader);
    }

    for hub in 0..2 {
        Http::new(cluster.url(hub), cluster.admin())
            .send("POST", "/v1/events/t/1", Some(&json!(hub)))
            .await?;
    }

    for (hub, reader) in readers.iter_mut().enumerate() {
        assert_eq!(
            reader.next_of("t").await?["payload"],
            json!(hub),
            "each reads its own hub's event first and only"
        );
    }
    let mut channels = Vec::new();
    let mut stream = everything.on_message();
    while channels.iter().filter(|c: &&String| c.ends_with("events:t:1")).count() < 2 {
        let message = tokio::time::timeout(Duration::from_secs(10), stream.next())
            .await?
            .context("a message")?;
        channels.push(message.get_channel_name().to_owned());
    }
    for channel in &channels {
        assert!(
            channel.starts_with("alk:a:hub:") || channel.starts_with("alk:b:hub:"),
            "{channel} has no prefix"
        );
    }
    drop(stream);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_reads_events_over_sse() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let http = Http::new(cluster.url(1), cluster.admin());
    let mut stream = http.sse("GET", "/v1/events?topic=a:1&topic=b:x:y", None).await?;
    let writer = Http::new(cluster.url(0), cluster.admin());

    writer.send("POST", "/v1/events/a/1", Some(&json!(1))).await?;
    let first = stream.next().await?.context("an event")?;
    writer.send("POST", "/v1/events/b/x:y", Some(&json!(2))).await?;
    let second = stream.next().await?.context("an event")?;

    assert_eq!(first.event, "", "no event field, so that onmessage fires");
    assert_eq!(
        serde_json::from_str::<Value>(&first.data)?,
        json!({"type": "a", "id": "1", "payload": 1})
    );
    assert_eq!(serde_json::from_str::<Value>(&second.data)?["id"], "x:y");
    cluster.shutdown().await;
    Ok(())
}
