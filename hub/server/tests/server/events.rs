//! Events: publishing over HTTP and WebSocket, reading as SSE and over WebSocket.

use alkhub_test_support::until;
use futures::StreamExt as _;
use reqwest::{Method, Response};
use serde_json::json;
use tokio::time::timeout;

use crate::harness::{Answer, LIMIT, TestHub, hub, hub_with, new_key};
use crate::wire::{Dialect, Wire, operation};

/// Reads a stream until it has `count` events, not counting comments and `retry`.
async fn read(response: Response, count: usize) -> Vec<String> {
    let mut pieces = response.bytes_stream();
    let mut text = String::new();
    loop {
        let events: Vec<String> = text
            .split_inclusive("\n\n")
            .filter(|event| event.ends_with("\n\n") && !event.starts_with(':') && !event.starts_with("retry:"))
            .map(|event| event.trim_end().to_owned())
            .collect();
        if events.len() >= count {
            return events;
        }
        let piece = timeout(LIMIT, pieces.next())
            .await
            .unwrap_or_else(|_| panic!("no more than {text}"));
        text.push_str(std::str::from_utf8(&piece.expect("open").expect("read")).expect("UTF-8"));
    }
}

async fn stream(hub: &TestHub, query: &str) -> Response {
    let response = hub
        .request(Method::GET, &format!("/v1/events?{query}"))
        .send()
        .await
        .expect("answered");
    assert_eq!(response.status(), 200);
    response
}

#[tokio::test]
async fn an_event_published_over_http_reaches_sse_and_websocket() {
    let hub = hub().await;
    let sse = stream(&hub, "topic=job.done:7&topic=note").await;
    let mut socket = Wire::connect(&hub, &hub.admin).await;
    socket
        .send(&json!({ "type": "__subscribe", "id": "", "payload": { "topic": "job.done:*" } }))
        .await;
    assert_eq!(socket.expect("__subscribed").await["payload"]["topic"], "job.done:*");

    let published = hub.post("/v1/events/job.done/7", &json!({ "ok": true })).await;
    hub.request(Method::POST, "/v1/events/note")
        .send()
        .await
        .expect("answered");

    assert_eq!(published.status, 202, "{published:?}");
    assert_eq!(published.body["data"], json!({ "topic": "job.done:7", "local": 2 }));
    let events = read(sse, 2).await;
    let lines: Vec<&str> = events[0].lines().collect();
    assert!(lines[0].starts_with("id: "), "{events:?}");
    assert_eq!(lines[1], r#"data: {"type":"job.done","id":"7","payload":{"ok":true}}"#);
    assert!(
        events[1].ends_with(r#"data: {"type":"note","id":""}"#),
        "an event without a payload has none: {events:?}"
    );
    assert!(events.iter().all(|event| !event.contains("event:")), "{events:?}");
    assert_eq!(
        socket.expect("job.done").await,
        json!({ "type": "job.done", "id": "7", "payload": { "ok": true } })
    );
}

#[tokio::test]
async fn events_of_one_socket_keep_their_order_and_reach_itself() {
    let hub = hub().await;
    let mut socket = Wire::connect(&hub, &hub.admin).await;
    for form in [
        json!("a:1"),
        json!({ "topic": "a:1" }),
        json!({ "type": "a", "id": "1" }),
    ] {
        socket
            .send(&json!({ "type": "__subscribe", "id": "", "payload": form }))
            .await;
        assert_eq!(socket.expect("__subscribed").await["payload"]["topic"], "a:1");
    }

    for n in 0..500 {
        socket.send(&json!({ "type": "a", "id": "1", "payload": n })).await;
    }
    for n in 0..500 {
        assert_eq!(socket.expect("a").await["payload"], n);
    }
    socket
        .send(&json!({ "type": "__unsubscribe", "id": "", "payload": "a:1" }))
        .await;
    socket.expect("__unsubscribed").await;
    socket
        .send(&json!({ "type": "a", "id": "1", "payload": "unseen" }))
        .await;
    socket
        .send(&json!({ "type": "__unsubscribe", "id": "", "payload": "b:1" }))
        .await;
    socket.expect("__unsubscribed").await;
}

#[tokio::test]
async fn a_scope_of_one_id_allows_that_id_and_no_other_on_every_surface() {
    let hub = hub().await;
    let (key, _) = hub.key(&["events:publish:job:42", "events:subscribe:job:42"]).await;
    let mut socket = Wire::connect(&hub, &key).await;
    let as_key = async |method: Method, path: &str| hub.as_key(&key, method, path).send().await.expect("answered");
    socket
        .text(r#"{"type":"__subscribe","id":"","payload":"job:42"}"#)
        .await;
    socket.expect("__subscribed").await;
    let sse = as_key(Method::GET, "/v1/events?topic=job:42").await;
    assert_eq!(sse.status(), 200);

    assert_eq!(as_key(Method::POST, "/v1/events/job/42").await.status(), 202);
    socket.text(r#"{"type":"job","id":"42","payload":2}"#).await;

    socket.expect("job").await;
    assert_eq!(socket.expect("job").await["payload"], 2);
    assert_eq!(read(sse, 2).await.len(), 2);
    for (method, path) in [
        (Method::POST, "/v1/events/job/43"),
        (Method::POST, "/v1/events/job"),
        (Method::GET, "/v1/events?topic=job:43"),
        (Method::GET, "/v1/events?topic=job:*"),
    ] {
        Answer::of(as_key(method, path).await)
            .await
            .is_problem(403, "ACCESS_DENIED");
    }
    for text in [
        r#"{"type":"__subscribe","id":"","payload":"job:43"}"#,
        r#"{"type":"__subscribe","id":"","payload":"job:*"}"#,
        r#"{"type":"job","id":"43","payload":1}"#,
    ] {
        socket.text(text).await;
        assert_eq!(socket.expect("__error").await["payload"]["code"], "ACCESS_DENIED");
    }
}

#[tokio::test]
async fn a_star_is_no_event_type_on_any_surface() {
    let hub = hub().await;
    let mut socket = Wire::connect(&hub, &hub.admin).await;

    for (method, path) in [
        (Method::POST, "/v1/events/*/1"),
        (Method::POST, "/v1/events/job.*"),
        (Method::GET, "/v1/events?topic=*"),
        (Method::GET, "/v1/events?topic=*:*"),
        (Method::GET, "/v1/events?topic=job.*:1"),
    ] {
        let answer = hub.request(method, path).send().await.expect("answered");
        let answer = Answer::of(answer).await;
        answer.is_problem(400, "BAD_REQUEST").names("no wildcard over types");
    }
    for text in [
        r#"{"type":"__subscribe","id":"","payload":"*"}"#,
        r#"{"type":"__subscribe","id":"","payload":{"type":"*","id":"*"}}"#,
        r#"{"type":"*","id":"1","payload":1}"#,
    ] {
        socket.text(text).await;
        let error = socket.expect("__error").await;
        assert_eq!(error["payload"]["code"], "BAD_REQUEST", "{error}");
    }
}

#[tokio::test]
async fn scopes_are_checked_and_named() {
    let hub = hub().await;
    let (key, _) = hub.key(&["events:publish:a", "events:subscribe:a"]).await;
    let as_key = |method, path: &str| hub.as_key(&key, method, path).send();
    let mut socket = Wire::connect(&hub, &key).await;

    assert_eq!(
        as_key(Method::POST, "/v1/events/a/1").await.expect("answered").status(),
        202
    );
    for (method, path, scope) in [
        (Method::POST, "/v1/events/b/1", "events:publish:b"),
        (Method::GET, "/v1/events?topic=b:1", "events:subscribe:b"),
        (Method::GET, "/v1/events?topic=a:1&topic=a:*", "events:subscribe:a:*"),
    ] {
        let answer = Answer::of(as_key(method, path).await.expect("answered")).await;
        answer.is_problem(403, "ACCESS_DENIED").names(scope);
    }
    for (message, scope, topic) in [
        (
            json!({ "type": "b", "id": "1", "payload": 1 }),
            "events:publish:b",
            "b:1",
        ),
        (
            json!({ "type": "__subscribe", "id": "", "payload": "b:1" }),
            "events:subscribe:b",
            "b:1",
        ),
    ] {
        socket.send(&message).await;
        let refused = socket.expect("__error").await;
        assert_eq!(refused["payload"]["code"], "ACCESS_DENIED", "{refused}");
        assert_eq!(refused["payload"]["topic"], topic, "{refused}");
        assert!(
            refused["payload"]["message"]
                .as_str()
                .is_some_and(|text| text.contains(scope)),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn topics_that_are_none_are_refused() {
    let hub = hub().await;
    for path in [
        "/v1/events/a%3Ab/1",
        "/v1/events/call.requested/1",
        "/v1/events/__ping/1",
        "/v1/events/a/*",
    ] {
        hub.post(path, &json!(1)).await.is_problem(400, "BAD_REQUEST");
    }
    for query in ["", "topic=", "topic=hub.list:1", "topic=a%20b:1"] {
        hub.get(&format!("/v1/events?{query}"))
            .await
            .is_problem(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn a_client_that_comes_back_is_told_that_it_may_have_missed_something() {
    let hub = hub().await;
    let request = hub
        .request(Method::GET, "/v1/events?topic=a:1")
        .header("last-event-id", "x-1");

    let events = read(request.send().await.expect("answered"), 1).await;

    assert_eq!(
        events[0],
        "event: gap\ndata: {\"topic\":\"a:1\",\"reason\":\"resume_unavailable\"}"
    );
}

#[tokio::test]
async fn a_reader_that_falls_behind_gets_a_gap_in_its_place() {
    let hub = hub_with(|config| config.events.queue_items = 4).await;
    let mut socket = Wire::connect(&hub, &hub.admin).await;
    socket
        .send(&json!({ "type": "__subscribe", "id": "", "payload": "a:1" }))
        .await;
    socket.expect("__subscribed").await;

    let payload = json!("x".repeat(500_000));
    for _ in 0..40 {
        hub.post("/v1/events/a/1", &payload).await;
    }
    hub.post("/v1/events/a/1", &json!("last")).await;

    let mut missed = 0;
    let mut seen = 0;
    loop {
        let message = socket.recv().await;
        match message["type"].as_str() {
            Some("__gap") => missed += message["payload"]["missed"].as_u64().expect("a number"),
            Some("a") if message["payload"] == "last" => break,
            _ => seen += 1,
        }
    }
    assert!(missed > 0, "the socket's buffers took everything");
    assert_eq!(seen + missed, 40);
}

#[tokio::test]
async fn a_stream_that_is_left_ends_its_subscriptions() {
    let hub = hub().await;
    let response = stream(&hub, "topic=a:1").await;
    assert_eq!(hub.metric(r#"alkhub_connections{kind="sse"}"#).await, Some(1.0));

    drop(response);

    until("the subscription has ended", || async {
        let published = hub.post("/v1/events/a/1", &json!(1)).await;
        match published.body["data"]["local"].as_u64() {
            Some(0) => Ok(()),
            _ => Err(published.text),
        }
    })
    .await;
    assert_eq!(hub.metric(r#"alkhub_connections{kind="sse"}"#).await, Some(0.0));
}

#[tokio::test]
async fn streams_end_by_name_when_their_spoke_may_no_longer_have_them() {
    let hub = hub().await;
    let key = new_key();
    let declare = async |scopes: &[&str]| {
        let declaration = json!({ "uid": "u-1", "key": key, "scopes": scopes });
        hub.declare("text", &declaration).await;
    };
    let open = async |method: Method, path: &str| {
        let request = hub.as_key(&key, method, path).body("\"a\"");
        let response = request.send().await.expect("answered");
        assert_eq!(response.status(), 200);
        response
    };
    declare(&["events:subscribe:*", "call:*"]).await;
    let mut spoke = Wire::connect(&hub, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "watch", "subscription")])
        .await;
    let both = open(Method::GET, "/v1/events?topic=job:1&topic=log:1").await;
    let job = open(Method::GET, "/v1/events?topic=job:1").await;
    let items = open(Method::POST, "/v1/call/text.watch").await;
    let call = spoke.expect("call.requested").await;

    declare(&["events:subscribe:job"]).await;

    let told = read(both, 1).await;
    assert!(
        told[0].starts_with("event: error\n") && told[0].contains("events:subscribe:log"),
        "{told:?}"
    );
    let told = read(items, 1).await;
    assert!(
        told[0].starts_with("event: error\n") && told[0].contains("call:text.watch"),
        "{told:?}"
    );
    let aborted = spoke.expect("call.aborted").await;
    assert_eq!(aborted["payload"]["requestId"], call["payload"]["requestId"]);
    hub.post("/v1/events/job/1", &json!("goes on")).await;
    let events = read(job, 1).await;
    assert!(events[0].contains("goes on"), "{events:?}");
}
