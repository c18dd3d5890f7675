//! What a key no longer allows ends, wherever its session is at that moment.

use alkhub_protocol::ApiKey;
use alkhub_test_support::{until, within};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::counting::{Carrier, Counting, hubs};

/// A scope that all declarations keep.
const JOB: &str = "events:subscribe:job";

/// Where the spoke of these tests is declared.
struct Declaration {
    http: Http,
    key: String,
}

// === impl Declaration ===

impl Declaration {
    fn new(cluster: &Cluster, hub: usize) -> Self {
        Self {
            http: Http::new(cluster.url(hub), cluster.admin()),
            key: ApiKey::from_entropy([9; 32]).expose().to_owned(),
        }
    }

    /// Declares what the spoke may offer, and which other scopes its key has.
    async fn put(&self, operations: &[&str], scopes: &[&str]) -> Result<()> {
        let spoke = json!({ "uid": "u", "key": self.key, "operations": operations, "scopes": scopes });
        self.http.declare("builder", &spoke).await
    }

    /// The declared spoke on the first hub, with `text.upper` and `text.watch`.
    async fn spoke(&self, cluster: &Cluster) -> Result<Counting> {
        let mut spoke = Counting::begin(cluster, 0, &self.key).await?;
        let operations = [
            operation("text", "upper", "mutation"),
            operation("text", "watch", "subscription"),
        ];
        let input = json!({ "name": "builder", "instanceId": "one", "operations": operations });
        spoke.ask("register", "hub.register", input).await?;
        spoke.expect("call.responded").await?;
        Ok(spoke)
    }

    /// Waits until a declaration is written; announcing it to other hubs may take longer.
    async fn is(&self, field: &str, wanted: &[&str]) {
        until("the declaration is another one", || async {
            let answer = self.http.send("GET", "/v1/admin/spokes/builder", None).await;
            let body = answer.map_err(|error| error.to_string())?.body;
            let is_written = body["data"]["declaration"][field] == json!(wanted);
            is_written.then_some(()).ok_or_else(|| body.to_string())
        })
        .await;
    }
}

/// Subscribes to a topic, which cannot be confirmed while Redis is held back: the session does not move before the
/// confirmation, and once another hub has asked for it, no connection serves it. Returns the connection over which its
/// peer asks there.
async fn between_hubs(mut session: Counting, cluster: &Cluster) -> Result<Counting> {
    session.send("__subscribe", "", json!({ "topic": "job:1" })).await?;
    // When this is answered, everything sent before has been read.
    session.ask("read", "hub.nothing", json!(null)).await?;
    let answer = session.expect("call.error").await?;
    ensure!(answer["id"] == "read", "{answer}");
    let seen = session.cut();
    cluster
        .shows(0, "\nalkhub_connections{kind=\"reconnecting\"} 1\n")
        .await;
    let mut peer = Peer::connect(&cluster.url(1), &seen.key).await?;
    peer.send("__hello", "", seen.hello()).await?;
    cluster
        .shows(0, "\nalkhub_connections{kind=\"reconnecting\"} 0\n")
        .await;
    Ok(Counting { peer, seen })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_the_key_does_not_allow_any_more_is_refused_by_the_hub_that_the_session_comes_to() -> Result<()> {
    let (cluster, redis) = Cluster::joined_behind_a_proxy(2, true, 0).await?;
    let declaration = Declaration::new(&cluster, 1);
    declaration.put(&[], &[JOB, "events:subscribe:build"]).await?;
    let mut reader = Counting::begin(&cluster, 0, &declaration.key).await?;
    for topic in ["build:1", "job:1"] {
        reader.send("__subscribe", "", json!({ "topic": topic })).await?;
        reader.expect("__subscribed").await?;
    }

    // The hub that has the session does not learn of the change.
    redis.hold();
    declaration.put(&[], &[JOB]).await?;
    let (mut reader, _) = reader.cut().resume(&cluster, 1).await?;

    let refused = reader.expect("__error").await?;
    let (code, topic) = (&refused["payload"]["code"], &refused["payload"]["topic"]);
    ensure!(code == "ACCESS_DENIED" && topic == "build:1", "{refused}");
    let gap = reader.expect("__gap").await?;
    ensure!(gap["payload"]["topic"] == "job:1", "{gap}");
    for topic in ["build", "job"] {
        let published = declaration
            .http
            .send("POST", &format!("/v1/events/{topic}/1"), Some(&json!(1)))
            .await?;
        ensure!(published.status < 300, "{published:?}");
    }
    reader.expect("job").await?;
    redis.heal();
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_caller_may_not_make_any_more_ends_though_the_caller_is_between_two_hubs() -> Result<()> {
    let (cluster, redis) = Cluster::joined_behind_a_proxy(2, true, 0).await?;
    let declaration = Declaration::new(&cluster, 0);
    declaration.put(&[], &[JOB, "call:other.watch"]).await?;
    let mut other = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    other
        .register("other", json!([operation("other", "watch", "subscription")]))
        .await?;
    let mut caller = Counting::begin(&cluster, 0, &declaration.key).await?;
    caller.ask("mine", "other.watch", json!("a")).await?;
    other.next_of("call.requested").await?;
    redis.hold();
    let mut caller = between_hubs(caller, &cluster).await?;

    let ending = async {
        declaration.is("scopes", &[JOB]).await;
        redis.heal();
        let answer = caller.peer.next().await?;
        // Any other answer means that the hub that has the session was too late.
        let mut caller = match answer["type"] == "__welcome" {
            true => caller,
            false => caller.cut().comes_back(&cluster, 1).await?,
        };
        ended(&mut caller, "mine").await
    };
    let both = Box::pin(async { tokio::join!(declaration.put(&[], &[JOB]), ending) });
    let (declared, ended) = within("it ends", both).await;

    declared?;
    let ended = ended?;
    ensure!(ended["type"] == "call.error", "{ended}");
    ensure!(ended["payload"]["code"] == "ACCESS_DENIED", "{ended}");
    cluster.shutdown().await;
    Ok(())
}

/// What a peer is told about a call.
async fn ended(caller: &mut Counting, id: &str) -> Result<Value> {
    loop {
        let message = caller.peer.next().await.context("nothing came of the call")?;
        if message["id"] == id {
            return Ok(message);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_a_spoke_may_not_offer_any_more_ends_though_its_session_was_in_nobodys_hands() -> Result<()> {
    let (cluster, redis) = Cluster::joined_behind_a_proxy(2, true, 0).await?;
    let declaration = Declaration::new(&cluster, 0);
    declaration.put(&["text.*"], &[JOB]).await?;
    let spoke = declaration.spoke(&cluster).await?;
    redis.hold();
    let mut spoke = between_hubs(spoke, &cluster).await?;

    let narrowing = async {
        declaration.is("operations", &["text.upper"]).await;
        // The session cannot move, and waits where it was.
        let refused = spoke.peer.next().await?;
        ensure!(refused["payload"]["code"] == "UNAVAILABLE", "{refused}");
        redis.heal();
        anyhow::Ok(())
    };
    let both = Box::pin(async { tokio::join!(declaration.put(&["text.upper"], &[JOB]), narrowing) });
    let (declared, narrowed) = within("it is declared", both).await;

    declared?;
    narrowed?;
    until("one operation is left", || async {
        let answer = declaration.http.send("GET", "/v1/spokes", None).await;
        let body = answer.map_err(|error| error.to_string())?.body;
        let is_left = body["data"][0]["operations"] == json!(["text.upper"]);
        is_left.then_some(()).ok_or_else(|| body.to_string())
    })
    .await;
    cluster.shutdown().await;
    Ok(())
}

/// The hub that has the session knows nothing of the calls: they were entered on the hub where it was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_its_spoke_may_not_offer_any_more_ends_though_the_session_has_moved() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let declaration = Declaration::new(&cluster, 1);
    declaration.put(&["text.*"], &[JOB]).await?;
    let mut spoke = declaration.spoke(&cluster).await?;
    let mut caller = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let mut calls = Vec::new();
    for operation in ["text.upper", "text.watch"] {
        let payload = json!({ "operationId": operation, "input": "a" });
        caller.send("call.requested", operation, payload).await?;
        calls.push(spoke.expect("call.requested").await?);
    }
    let (mut spoke, _) = spoke.cut().resume(&cluster, 1).await?;

    declaration.put(&["text.upper"], &[JOB]).await?;

    let ended = caller.next().await?;
    ensure!(ended["type"] == "call.error" && ended["id"] == "text.watch", "{ended}");
    ensure!(ended["payload"]["code"] == "NO_PROVIDER", "{ended}");
    let aborted = spoke.expect("call.aborted").await?;
    ensure!(aborted["id"] == calls[1]["id"], "{aborted}");
    spoke.respond(&calls[0], json!("A")).await?;
    let answer = caller.next().await?;
    ensure!(
        answer["id"] == "text.upper" && answer["type"] == "call.responded",
        "{answer}"
    );
    cluster.shutdown().await;
    Ok(())
}
