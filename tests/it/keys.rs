//! Keys and scopes across several hubs.

use std::time::Duration;

use alkhub_test_support::{until, until_within};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_on_one_hub_ends_its_connection_on_another() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let admin = Http::new(cluster.url(0), cluster.admin());
    let (id, key) = admin
        .new_key(&json!({"name": "k", "scopes": ["operations:read"]}))
        .await?;
    let mut peer = Peer::connect(&cluster.url(1), &key).await?;

    admin.send("DELETE", &format!("/v1/admin/keys/{id}"), None).await?;
    let (code, _) = peer.closed().await?;

    assert_eq!(code, 4401);
    assert!(
        Peer::connect(&cluster.url(1), &key).await.is_err(),
        "a revoked key opens nothing"
    );
    let refused = Http::new(cluster.url(1), key)
        .send("GET", "/v1/operations", None)
        .await?;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (401, &json!("UNAUTHENTICATED"))
    );
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_on_one_hub_ends_its_streams_on_another() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let admin = Http::new(cluster.url(0), cluster.admin());
    let scopes = json!({"name": "k", "scopes": ["events:subscribe:a", "call:t.watch"]});
    let (id, key) = admin.new_key(&scopes).await?;
    let mut spoke = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    spoke
        .register("t", json!([operation("t", "watch", "subscription")]))
        .await?;
    let reader = Http::new(cluster.url(1), key);
    let topics = reader.sse("GET", "/v1/events?topic=a:1", None).await?;
    let items = reader.sse("POST", "/v1/call/t.watch", Some(&json!(1))).await?;
    spoke.next_of("call.requested").await?;

    admin.send("DELETE", &format!("/v1/admin/keys/{id}"), None).await?;

    for mut stream in [topics, items] {
        let last = stream.next().await?.context("the reason")?;
        let problem: Value = serde_json::from_str(&last.data)?;
        assert_eq!(
            (last.event.as_str(), &problem["code"], &problem["detail"]),
            ("error", &json!("UNAUTHENTICATED"), &json!("the key was revoked"))
        );
        assert_eq!(stream.next().await?, None, "the stream has ended");
    }
    spoke.next_of("call.aborted").await?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_back_with_its_spoke_is_taken_by_every_hub_at_once() -> Result<()> {
    const SOON: Duration = Duration::from_secs(10);
    let cluster = Cluster::start(2).await?;
    let admin = Http::new(cluster.url(0), cluster.admin());
    let key = alkhub_protocol::ApiKey::from_entropy([11; 32]);
    let path = "/v1/admin/spokes/builder";
    let put = json!({"uid": "u1", "key": key.expose(), "scopes": ["operations:read"]});
    let answers = async |hub: usize, status: u16| {
        let holder = Http::new(cluster.url(hub), key.expose());
        until_within(&format!("hub {hub} answers {status}"), SOON, || async {
            let answer = holder.send("GET", "/v1/operations", None).await;
            let answer = answer.map_err(|error| error.to_string())?;
            if answer.status == status {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        })
        .await;
    };
    assert_eq!(admin.send("PUT", path, Some(&put)).await?.status, 201);

    // In one round hub 1 gets a request between the two changes, in the other it does not.
    for is_asked in [true, false] {
        let mut peer = Peer::connect(&cluster.url(1), key.expose()).await?;
        answers(0, 200).await;
        answers(1, 200).await;
        assert_eq!(admin.send("DELETE", path, None).await?.status, 204);
        assert_eq!(peer.closed().await?.0, 4401);
        answers(0, 401).await;
        if is_asked {
            answers(1, 401).await;
        }

        assert_eq!(admin.send("PUT", path, Some(&put)).await?.status, 201);

        answers(0, 200).await;
        answers(1, 200).await;
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_scope_is_named() -> Result<()> {
    let cluster = Cluster::single().await?;
    let admin = Http::new(cluster.url(0), cluster.admin());
    let (_, key) = admin
        .new_key(&json!({"name": "k", "scopes": ["call:other.op"]}))
        .await?;
    let mut spoke = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    spoke.register("t", json!([operation("t", "echo", "query")])).await?;
    let client = Http::new(cluster.url(0), key);

    let call = client.call("t.echo", &json!(1)).await?;
    let publish = client.send("POST", "/v1/events/a/1", Some(&json!(1))).await?;
    let keys = client.send("GET", "/v1/admin/keys", None).await?;

    for (answer, scope) in [(call, "call:t.echo"), (publish, "events:publish:a"), (keys, "admin")] {
        assert_eq!((answer.status, &answer.body["code"]), (403, &json!("ACCESS_DENIED")));
        assert!(
            answer.body["detail"].as_str().is_some_and(|text| text.contains(scope)),
            "{answer:?}"
        );
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_spoke_offers_what_its_resource_allows_and_dies_with_it() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let admin = Http::new(cluster.url(0), cluster.admin());
    let key = alkhub_protocol::ApiKey::from_entropy([9; 32]);
    let put = json!({"uid": "u1", "key": key.expose(), "operations": ["text.*"]});
    admin.declare("builder", &put).await?;
    let mut spoke = Peer::connect(&cluster.url(1), key.expose()).await?;

    let answer = spoke
        .register(
            "builder",
            json!([
                operation("text", "upper", "query"),
                operation("git", "log", "query"),
                operation("hub", "x", "query")
            ]),
        )
        .await?;
    let results: Vec<&str> = answer["operations"]
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|o| o["result"].as_str())
        .collect();
    let foreign = admin.send("DELETE", "/v1/admin/spokes/builder?uid=other", None).await?;
    until("the spoke is seen", || async {
        let seen = admin
            .send("GET", "/v1/admin/spokes/builder", None)
            .await
            .map_err(|e| e.to_string())?;
        if seen.body["data"]["status"] == "connected" {
            Ok(())
        } else {
            Err(format!("{foreign:?} {seen:?}"))
        }
    })
    .await;
    admin.send("DELETE", "/v1/admin/spokes/builder?uid=u1", None).await?;
    let (code, _) = spoke.closed().await?;

    assert_eq!(results, ["registered", "rejected", "rejected"]);
    assert_eq!(code, 4401);
    cluster.shutdown().await;
    Ok(())
}
