//! The graceful end of a hub, with calls that are running and calls that come during the drain.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::bare::{Bare, frame};
use crate::harness::{Answer, LIMIT, TestHub, hub, hub_with};
use crate::wire::{Dialect, Wire, operation};

/// How many clients have a call under way when the hub begins to drain.
const CLIENTS: usize = 8;

#[tokio::test]
async fn a_hub_that_drains_finishes_its_calls_and_closes_with_a_reason() {
    let hub = hub().await;
    let mut spoke = Wire::spoke(&hub, &[operation("text", "upper", "query")]).await;
    let mut idle = Wire::connect(&hub, &hub.admin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
    let call = spoke.expect("call.requested").await;
    let events = hub
        .request(Method::GET, "/v1/events?topic=a:1")
        .send()
        .await
        .expect("answered");

    let (ended, ()) = tokio::join!(timeout(LIMIT, hub.hub.shutdown()), async {
        assert_eq!(idle.closed().await.0, 1001);
        let draining = hub.management("/readyz").await;
        assert_eq!((draining.status, &draining.body["status"]), (503, &json!("draining")));
        assert!(
            hub.client.get(hub.hub.url()).send().await.is_err(),
            "no new connections"
        );
        spoke.respond(&call, json!("X")).await;
        assert_eq!(client.expect("call.responded").await["payload"]["output"]["data"], "X");
        let (code, reason) = client.closed().await;
        assert_eq!((code, reason.as_str()), (1001, "the hub is going away: connect again"));
        assert_eq!(spoke.closed().await.0, 1001);
    });

    ended.expect("ends in time");
    assert!(
        events
            .text()
            .await
            .expect("the stream came to its end")
            .starts_with("retry: ")
    );
    assert!(hub.client.get(hub.hub.management_url()).send().await.is_err());
}

#[tokio::test]
async fn calls_that_outlast_the_drain_are_failed() {
    let hub = hub_with(|config| config.server.drain_timeout = Duration::from_millis(100)).await;
    let operations = [
        operation("text", "upper", "query"),
        operation("text", "watch", "subscription"),
    ];
    let mut spoke = Wire::spoke(&hub, &operations).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
    spoke.expect("call.requested").await;
    let call = hub.request(Method::POST, "/v1/call/text.upper").body("\"x\"").send();
    let watch = hub.request(Method::POST, "/v1/call/text.watch").body("\"x\"").send();

    let (called, watched, ()) = tokio::join!(
        async { Answer::of(call.await.expect("answered")).await },
        async { Answer::of(watch.await.expect("answered")).await },
        async {
            spoke.expect("call.requested").await;
            spoke.expect("call.requested").await;
            let (ended, (), (code, _)) = tokio::join!(
                timeout(LIMIT, hub.hub.shutdown()),
                async {
                    let error = client.expect("call.error").await;
                    assert_eq!(error["payload"]["code"], "UNAVAILABLE", "{error}");
                    assert_eq!(error["payload"]["delivered"], "maybe", "{error}");
                    assert_eq!(client.closed().await.0, 1001);
                },
                spoke.closed()
            );
            ended.expect("ends in time");
            assert_eq!(code, 1001);
        },
    );

    called.is_problem(503, "UNAVAILABLE");
    assert!(watched.text.contains("event: error"), "{watched:?}");
}

/// Clients that have each called `text.upper` once, and the calls as the spoke got them.
async fn busy_clients(hub: &TestHub, spoke: &mut Wire) -> (Vec<Wire>, Vec<Value>) {
    let (mut clients, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        let mut client = Wire::connect(hub, &hub.admin).await;
        client.call(Dialect::Origin, "first", "text.upper", json!("x")).await;
        calls.push(spoke.expect("call.requested").await);
        clients.push(client);
    }
    (clients, calls)
}

/// A client with a call under way may keep calling, because its hub has not closed its connection.
#[tokio::test]
async fn calls_that_come_while_a_hub_drains_are_answered_as_those_that_run_and_then_every_socket_closes() {
    let hub = hub().await;
    let mut spoke = Wire::spoke(&hub, &[operation("text", "upper", "query")]).await;
    let mut idle = Wire::connect(&hub, &hub.admin).await;
    let (mut clients, mut calls) = busy_clients(&hub, &mut spoke).await;

    let (ended, ()) = tokio::join!(timeout(LIMIT, hub.hub.shutdown()), async {
        // The drain has begun.
        assert_eq!(idle.closed().await.0, 1001);
        for client in &mut clients {
            client.call(Dialect::Origin, "late", "text.upper", json!("x")).await;
            calls.push(spoke.expect("call.requested").await);
            client.call(Dialect::Origin, "nobody", "text.none", json!("x")).await;
            let refused = client.expect("call.error").await["payload"].clone();
            assert_eq!(
                (&refused["requestId"], &refused["code"], &refused["delivered"]),
                (&json!("nobody"), &json!("OPERATION_NOT_FOUND"), &json!("no"))
            );
        }
        // The last call is answered first: each connection stays for as long as one of its calls runs.
        for call in calls.iter().rev() {
            spoke.respond(call, json!("X")).await;
        }
        for client in &mut clients {
            for request in ["late", "first"] {
                let answer = client.expect("call.responded").await["payload"].clone();
                assert_eq!(
                    (&answer["requestId"], &answer["output"]["data"]),
                    (&json!(request), &json!("X"))
                );
            }
            assert_eq!(client.closed().await.0, 1001);
        }
        assert_eq!(spoke.closed().await.0, 1001);
    });

    ended.expect("ends in time");
    assert_eq!(hub.hub.websockets(), 0);
}

/// A client makes one call after another on a hub whose drain ends before the spoke answers anything.
#[tokio::test]
async fn each_call_that_a_draining_hub_took_is_answered_by_name_before_its_socket_closes() {
    let hub = hub_with(|config| config.server.drain_timeout = Duration::from_millis(300)).await;
    let mut spoke = Wire::spoke(&hub, &[operation("text", "upper", "mutation")]).await;
    let mut idle = Wire::connect(&hub, &hub.admin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "call-0", "text.upper", json!("x")).await;
    let first = spoke.expect("call.requested").await;
    let mut received = vec![first["payload"]["requestId"].clone()];

    let (ended, sent, told, code) = {
        let shutdown = timeout(LIMIT, hub.hub.shutdown());
        let late = async {
            assert_eq!(idle.closed().await.0, 1001);
            // It makes the next call once the previous one has reached the spoke, until the drain's time is up.
            let mut sent = 1;
            loop {
                client
                    .call(Dialect::Origin, &format!("call-{sent}"), "text.upper", json!("x"))
                    .await;
                sent += 1;
                match spoke.next().await {
                    Message::Close(_) => break,
                    message => {
                        let message: Value = serde_json::from_slice(&message.into_data()).expect("JSON");
                        if message["type"] == "call.requested" {
                            received.push(message["payload"]["requestId"].clone());
                        } else {
                            assert_eq!(message["type"], "call.aborted", "{message}");
                            break;
                        }
                    }
                }
            }
            let (told, code) = until_closed(&mut client).await;
            (sent, told, code)
        };
        let (ended, (sent, told, code)) = tokio::join!(shutdown, late);
        (ended, sent, told, code)
    };

    ended.expect("ends in time");
    assert_eq!(code, 1001);
    // Whatever was sent after the end was decided is not read; everything before that is.
    let told_of: Vec<&str> = told.iter().filter_map(|error| error["requestId"].as_str()).collect();
    for number in 0..told.len() {
        assert!(
            told_of.contains(&format!("call-{number}").as_str()),
            "{told_of:?} of {sent}"
        );
    }
    assert!(
        told.len() >= received.len(),
        "{} told, {} received",
        told.len(),
        received.len()
    );
    for error in &told {
        assert_eq!(error["code"], "UNAVAILABLE", "{error}");
        assert_ne!(error["delivered"], "yes", "{error}");
    }
}

/// The errors that a client is told until its socket closes, and the close code.
async fn until_closed(client: &mut Wire) -> (Vec<Value>, u16) {
    let mut told = Vec::new();
    loop {
        let next = timeout(LIMIT, client.0.next()).await.expect("in time");
        match next.expect("a close comes first").expect("a message") {
            Message::Close(frame) => return (told, frame.expect("a code").code.into()),
            Message::Ping(_) | Message::Pong(_) => {}
            message => {
                let message: Value = serde_json::from_slice(&message.into_data()).expect("JSON");
                assert_eq!(message["type"], "call.error", "{message}");
                told.push(message["payload"].clone());
            }
        }
    }
}

/// The size of one event: the hub keeps more of them for a reader than the kernel does.
const EVENT_BYTES: usize = 100_000;

/// The number of such events: no more than may wait for one reader.
const EVENTS: usize = 60;

#[tokio::test]
async fn a_message_that_has_begun_is_read_and_answered_before_a_hub_that_drains_lets_its_sender_go() {
    let hub = hub().await;
    let mut idle = Wire::connect(&hub, &hub.admin).await;
    let mut client = Bare::connect(&hub, &hub.admin).await;
    let payload = json!({ "operationId": "text.none", "input": 1 });
    let call = json!({ "type": "call.requested", "id": "asked", "payload": payload }).to_string();
    let (begun, rest) = call.as_bytes().split_at(call.len() / 2);
    client.send(&frame(0x01, begun)).await;
    // When the ping is answered, everything before it has been read.
    client.send(&frame(0x89, b"read")).await;
    client.until_said(b"read").await;

    let (ended, said) = tokio::join!(timeout(LIMIT, hub.hub.shutdown()), async {
        assert_eq!(idle.closed().await.0, 1001);
        client.send(&frame(0x80, rest)).await;
        client.rest().await
    });

    ended.expect("ends in time");
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("\"asked\"") && said.contains("the hub is going away"),
        "{said}"
    );
}

#[tokio::test]
async fn a_hub_that_drains_writes_the_events_that_wait_before_it_closes() {
    let hub = hub().await;
    let mut reader = Bare::narrow(&hub, &hub.admin).await;
    reader
        .message(&json!({ "type": "__subscribe", "id": "", "payload": { "topic": "fill:1" } }))
        .await;
    reader.until_said(b"__subscribed").await;
    let mut idle = Wire::connect(&hub, &hub.admin).await;
    for number in 0..EVENTS {
        let event = json!(format!("{number:04}{}", "x".repeat(EVENT_BYTES)));
        let told = hub.post("/v1/events/fill/1", &event).await;
        assert_eq!(told.body["data"]["local"], 1, "{told:?}");
    }

    let (ended, said) = tokio::join!(timeout(LIMIT, hub.hub.shutdown()), async {
        assert_eq!(idle.closed().await.0, 1001);
        reader.rest().await
    });

    ended.expect("ends in time");
    let said = String::from_utf8_lossy(&said);
    let missing: Vec<usize> = (0..EVENTS).filter(|n| !said.contains(&format!("{n:04}x"))).collect();
    // Events that do not fit are replaced by a gap that reports them.
    assert!(missing.is_empty() || said.contains("__gap"), "{missing:?}");
    assert!(said.contains("the hub is going away"));
}
