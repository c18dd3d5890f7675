//! Keys that end while server-sent event streams are open under them, and how many such streams one key may have.

use std::time::Duration;

use alkhub_test_support::until;
use futures::StreamExt as _;
use futures::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use crate::harness::{Answer, LIMIT, TestHub, hub, hub_with, new_key};
use crate::wire::{Dialect, Wire, operation, request};

/// A stream of topics, opened with a key.
async fn topics(hub: &TestHub, key: &str) -> Response {
    let request = hub.as_key(key, Method::GET, "/v1/events?topic=a:1");
    let response = request.send().await.expect("answered");
    assert_eq!(response.status(), 200);
    response
}

/// A spoke with a subscription, and a stream of its items, opened with a key.
async fn items(hub: &TestHub, key: &str) -> (Wire, Value, Response) {
    let (spoke_key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(hub, &spoke_key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "watch", "subscription")])
        .await;
    let request = hub.as_key(key, Method::POST, "/v1/call/text.watch").body("\"x\"");
    let response = request.send().await.expect("answered");
    assert_eq!(response.status(), 200);
    let call = spoke.expect("call.requested").await;
    spoke.respond(&call, json!("one")).await;
    (spoke, call, response)
}

/// Reads a stream to its end; returns the problem in its last event.
async fn last_words(response: Response) -> Value {
    let (mut pieces, mut text) = (response.bytes_stream(), String::new());
    let end = Instant::now() + LIMIT;
    while let Some(piece) = timeout_at(end, pieces.next())
        .await
        .unwrap_or_else(|_| panic!("the stream goes on after {text}"))
    {
        text.push_str(std::str::from_utf8(&piece.expect("read")).expect("UTF-8"));
    }
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let problem = last.strip_prefix("event: error\ndata: ");
    let problem = problem.unwrap_or_else(|| panic!("the last event is no error: {text}"));
    serde_json::from_str(problem).expect("a problem document")
}

#[track_caller]
fn says(problem: &Value, status: u16, code: &str, detail: &str) {
    assert_eq!(
        (&problem["status"], &problem["code"], &problem["detail"]),
        (&json!(status), &json!(code), &json!(detail)),
        "{problem}"
    );
}

async fn revoke(hub: &TestHub, id: &str) {
    let request = hub.request(Method::DELETE, &format!("/v1/admin/keys/{id}"));
    assert_eq!(request.send().await.expect("answered").status(), 200);
}

#[tokio::test]
async fn a_revoked_key_ends_its_streams_with_the_reason() {
    let hub = hub().await;
    let (key, id) = hub.key(&["events:subscribe:a", "call:text.watch"]).await;
    let topics = topics(&hub, &key).await;
    let (mut spoke, call, items) = items(&hub, &key).await;

    revoke(&hub, &id).await;

    says(&last_words(topics).await, 401, "UNAUTHENTICATED", "the key was revoked");
    let problem = last_words(items).await;
    says(&problem, 401, "UNAUTHENTICATED", "the key was revoked");
    assert_eq!(problem["delivered"], "maybe", "the spoke has the call: {problem}");
    let aborted = spoke.expect("call.aborted").await;
    assert_eq!(aborted["payload"]["requestId"], call["payload"]["requestId"]);
    let published = hub.post("/v1/events/a/1", &json!(1)).await;
    assert_eq!(published.body["data"]["local"], 0, "{published:?}");
    assert_eq!(hub.metric(r#"alkhub_connections{kind="sse"}"#).await, Some(0.0));
}

#[tokio::test]
async fn a_call_over_a_socket_whose_key_ends_ends_with_the_reason() {
    let hub = hub().await;
    let (spoke_key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &spoke_key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "wait", "mutation")])
        .await;
    let (revoked, revoked_id) = hub.key(&["call:text.wait"]).await;
    let suspended = new_key();
    let put = async |suspend: bool| {
        let policy = json!({ "uid": "u-1", "key": suspended, "scopes": ["call:text.wait"], "suspended": suspend });
        hub.declare("caller", &policy).await;
    };
    put(false).await;
    let mut callers = Vec::new();
    for key in [&revoked, &suspended] {
        let mut caller = Wire::connect(&hub, key).await;
        caller.call(Dialect::Origin, "r", "text.wait", json!("x")).await;
        spoke.expect("call.requested").await;
        callers.push(caller);
    }

    revoke(&hub, &revoked_id).await;
    put(true).await;

    let ends = [
        ("UNAUTHENTICATED", "the key was revoked"),
        ("ACCESS_DENIED", "the key's spoke is suspended"),
    ];
    for (caller, (code, reason)) in callers.iter_mut().zip(ends) {
        let error = caller.expect("call.error").await["payload"].clone();
        let said = (&error["code"], &error["message"], &error["delivered"]);
        assert_eq!(said, (&json!(code), &json!(reason), &json!("maybe")), "{error}");
    }
}

#[tokio::test]
async fn a_key_revoked_while_connections_open_keeps_none_of_them() {
    let hub = hub_with(|config| config.server.bad_keys_per_minute = 10_000).await;
    for _ in 0..5 {
        let (key, id) = hub.key(&["events:subscribe:a"]).await;
        let sockets = join_all((0..10).map(|_| async {
            match Wire::open(request(&hub, Some(&key))).await {
                Ok(mut socket) => assert_eq!(socket.closed().await.0, 4401),
                Err(error) => assert!(error.to_string().contains("401"), "{error}"),
            }
        }));
        let streams = join_all((0..10).map(|_| async {
            let request = hub.as_key(&key, Method::GET, "/v1/events?topic=a:1");
            let response = request.send().await.expect("answered");
            if response.status() == 200 {
                says(
                    &last_words(response).await,
                    401,
                    "UNAUTHENTICATED",
                    "the key was revoked",
                );
            } else {
                assert_eq!(response.status(), 401);
            }
        }));

        let ended = timeout(LIMIT, async { tokio::join!(sockets, streams, revoke(&hub, &id)) }).await;

        assert!(ended.is_ok(), "a connection outlives its key");
    }
}

#[tokio::test]
async fn a_key_that_expires_ends_its_streams() {
    let hub = hub().await;
    let brief = json!({ "name": "brief", "scopes": ["events:subscribe:a", "call:text.watch"], "expiresInSeconds": 2 });
    let created = hub.post("/v1/admin/keys", &brief).await;
    let key = created.body["data"]["key"].as_str().expect("a key").to_owned();
    let topics = topics(&hub, &key).await;
    let (_spoke, _, items) = items(&hub, &key).await;

    let (topics, items) = tokio::join!(last_words(topics), last_words(items));

    says(&topics, 401, "UNAUTHENTICATED", "the key has expired");
    says(&items, 401, "UNAUTHENTICATED", "the key has expired");
}

#[tokio::test]
async fn a_suspended_spoke_loses_its_streams() {
    let hub = hub().await;
    let key = new_key();
    let put = async |suspended: bool| {
        let spoke = json!({ "uid": "u-1", "key": key, "scopes": ["events:subscribe:a"], "suspended": suspended });
        hub.declare("builder", &spoke).await;
    };
    put(false).await;
    let stream = topics(&hub, &key).await;

    put(true).await;

    says(
        &last_words(stream).await,
        403,
        "ACCESS_DENIED",
        "the key's spoke is suspended",
    );
}

#[tokio::test]
async fn a_change_that_was_not_heard_ends_streams_at_the_next_check() {
    let hub = hub_with(|config| config.auth.cache_ttl = Duration::from_secs(1)).await;
    let (key, id) = hub.key(&["events:subscribe:a"]).await;
    let stream = topics(&hub, &key).await;

    // Bypasses the hub's own route, like another hub while Redis is away.
    hub.hub.store().keys().revoke(&id).await.expect("revoked");

    says(&last_words(stream).await, 401, "UNAUTHENTICATED", "the key was revoked");
}

#[tokio::test]
async fn streams_count_among_the_connections_of_a_key() {
    let hub = hub_with(|config| config.server.max_connections_per_key = 2).await;
    let (key, _) = hub.key(&["events:subscribe:a", "call:text.watch"]).await;
    let first = topics(&hub, &key).await;
    let second = items(&hub, &key).await;

    let limited = Answer::of(
        hub.as_key(&key, Method::GET, "/v1/events?topic=a:1")
            .send()
            .await
            .expect("answered"),
    )
    .await;
    limited
        .is_problem(429, "RATE_LIMITED")
        .names("server.max-connections-per-key");
    assert_eq!(limited.header("retry-after"), "1");
    let call = hub.as_key(&key, Method::POST, "/v1/call/text.watch").body("\"x\"");
    let limited = Answer::of(call.send().await.expect("answered")).await;
    limited.is_problem(429, "RATE_LIMITED");
    assert_eq!(Wire::refused(request(&hub, Some(&key))).await, 429);
    assert_eq!(
        hub.metric(r#"alkhub_rate_limited_total{limit="connections_per_key"}"#)
            .await,
        Some(3.0)
    );
    topics(&hub, &hub.admin).await;

    drop((first, second));
    until("a place is free", || async {
        let request = hub.as_key(&key, Method::GET, "/v1/events?topic=a:1");
        match request.send().await.map(|answer| answer.status().as_u16()) {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
