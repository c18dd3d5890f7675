//! Bytes that no WebSocket library would send, on a real socket.

use std::time::Duration;

use alkhub_config::HubConfig;
use serde_json::{Value, json};

use crate::bare::{Bare, PING, frame};
use crate::harness::{LIMIT, TestHub, hub, hub_with, nothing_is_kept};
use crate::wire::{Dialect, Wire, operation};

#[tokio::test]
async fn each_way_to_break_the_protocol_is_closed_with_its_code_at_once() {
    let hub = hub().await;
    for (case, bytes, code) in [
        ("reserved bits", frame(0xC1, b"{}"), 1002_u16),
        ("not masked", vec![0x81, 2, b'{', b'}'], 1002),
        ("unknown opcode", frame(0x83, b""), 1002),
        ("fragmented ping", frame(0x09, b""), 1002),
        ("continuation of nothing", frame(0x80, b""), 1002),
        ("text that is not UTF-8", frame(0x81, b"\xFF"), 1007),
        ("close code 1005", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        (
            "a length over the limit",
            [&[0x82, 0xFF][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat(),
            1009,
        ),
    ] {
        let mut socket = Bare::connect(&hub, &hub.admin).await;
        socket.send(&bytes).await;

        let said = socket.rest().await;

        assert_eq!(said[0], 0x88, "{case}: {said:?}");
        assert_eq!(u16::from_be_bytes([said[2], said[3]]), code, "{case}");
    }
}

#[tokio::test]
async fn a_ping_between_fragments_is_answered_and_a_close_is_returned() {
    let hub = hub().await;
    let mut socket = Bare::connect(&hub, &hub.admin).await;
    let text = br#"{"type":"__unsubscribe","id":"","payload":"a:1"}"#;
    let bytes = [
        frame(0x01, &text[..10]),
        frame(0x89, b"still there?"),
        frame(0x80, &text[10..]),
        frame(0x88, &1000_u16.to_be_bytes()),
    ]
    .concat();
    for byte in bytes {
        socket.send(&[byte]).await;
    }

    let said = socket.rest().await;

    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("still there?"), "{text}");
    assert!(text.contains("__unsubscribed"), "{text}");
    assert!(said.ends_with(&[0x88, 2, 0x03, 0xE8]), "{said:?}");
}

/// A hub with a spoke that offers `text.watch`.
async fn with_stream(change: impl FnOnce(&mut HubConfig)) -> (TestHub, Wire) {
    let hub = hub_with(change).await;
    let spoke = Wire::spoke(&hub, &[operation("text", "watch", "subscription")]).await;
    (hub, spoke)
}

/// A call in the form in which a process of the origin makes it.
fn call(request: &str, operation: &str, input: &Value) -> Value {
    let payload = json!({ "requestId": request, "operationId": operation, "input": input });
    json!({ "type": "call.requested", "id": "", "payload": payload })
}

fn abort(request: &str) -> Value {
    json!({ "type": "call.aborted", "id": "", "payload": { "requestId": request } })
}

/// A process of the origin that is a spoke with one operation.
async fn origins_spoke(hub: &TestHub, name: &str, kind: &str) -> Bare {
    let mut origin = Bare::connect(hub, &hub.admin).await;
    let input = json!({ "name": "text", "operations": [operation("text", name, kind)] });
    origin.message(&call("r", "hub.register", &input)).await;
    origin.until_said(b"call.responded").await;
    origin
}

/// A process of the origin takes items through a queue of its own, and sees an end that arrives in the same read before
/// it sees them. So the end is sent only after a ping that followed the items was answered, and never together with the
/// items.
#[tokio::test]
async fn the_end_of_a_stream_waits_until_its_reader_has_the_items_in_the_origins_dialect() {
    let (hub, mut spoke) = with_stream(|_| {}).await;
    for end in ["call.completed", "call.error", "call.aborted"] {
        let mut origin = Bare::connect(&hub, &hub.admin).await;
        origin.message(&call("s", "text.watch", &json!("a"))).await;
        let asked = spoke.expect("call.requested").await;
        for item in ["1", "2", "3"] {
            spoke.respond(&asked, json!(item)).await;
        }
        spoke.say(end, &asked, json!({ "code": "QUOTA" })).await;

        origin.until_said(&PING).await;
        // Other requests are answered in the meantime, while the end still waits.
        origin.text(r#"{"type":"__unsubscribe","id":"","payload":"a:1"}"#).await;
        origin.until_said(b"__unsubscribed").await;
        let said = origin.said();
        assert_eq!(said.matches("call.responded").count(), 3, "{said}");
        assert!(!said.contains(end), "{said}");

        origin.answer_ping().await;
        origin.until_said(end.as_bytes()).await;
    }
}

/// A peer that answers no pings makes the hub keep only a bounded amount, all of which is charged to its key.
#[tokio::test]
async fn ends_of_streams_that_wait_for_pongs_are_bounded_in_bytes_and_charged_to_their_reader() {
    let (hub, mut spoke) = with_stream(|config| {
        // No heartbeat must release an end in the meantime.
        config.server.ping_interval = LIMIT * 3;
        config.server.dead_after = LIMIT * 6;
    })
    .await;
    let mut origin = Bare::connect(&hub, &hub.admin).await;
    let details = "x".repeat(600_000);
    for number in 0..5 {
        origin
            .message(&call(&format!("s{number}"), "text.watch", &json!("a")))
            .await;
        let asked = spoke.expect("call.requested").await;
        spoke.respond(&asked, json!("1")).await;
        spoke
            .say("call.error", &asked, json!({ "code": "QUOTA", "details": details }))
            .await;
        // One end may wait; the next one releases it.
        if number > 0 {
            let gone = format!(r#""requestId":"s{}","code":"QUOTA""#, number - 1);
            origin.until_said(gone.as_bytes()).await;
            origin.said.clear();
        }
    }

    let charged = hub.metric(r#"alkhub_budget_bytes{kept="queues"}"#).await.expect("told");
    assert!(charged > 500_000.0, "the one that waits is charged: {charged}");
    drop(origin);
    nothing_is_kept(&hub, "queues").await;
}

/// A client that stops a stream is told of its end in the same way as if its spoke had ended it.
#[tokio::test]
async fn the_end_of_a_stream_that_its_caller_stops_waits_for_a_pong_as_well() {
    let (hub, mut spoke) = with_stream(|_| {}).await;
    let mut origin = Bare::connect(&hub, &hub.admin).await;
    origin.message(&call("s", "text.watch", &json!("a"))).await;
    let asked = spoke.expect("call.requested").await;
    spoke.respond(&asked, json!("1")).await;
    origin.until_said(b"call.responded").await;

    origin.message(&abort("s")).await;
    origin.until_said(&PING).await;
    assert!(!origin.said().contains("call.aborted"), "{}", origin.said());
    origin.answer_ping().await;

    origin.until_said(b"aborted by the caller").await;
}

/// A peer of the second dialect reads all messages in order, so the end of a stream waits for nothing.
#[tokio::test]
async fn the_end_of_a_stream_follows_its_items_at_once_in_the_second_dialect() {
    let (hub, mut spoke) = with_stream(|_| {}).await;
    let mut successor = Bare::connect(&hub, &hub.admin).await;
    let payload = json!({ "operationId": "text.watch", "input": "a" });
    successor
        .message(&json!({ "type": "call.requested", "id": "s", "payload": payload }))
        .await;
    let asked = spoke.expect("call.requested").await;
    spoke.respond(&asked, json!("1")).await;
    spoke.say("call.completed", &asked, json!({})).await;

    successor.until_said(b"call.completed").await;

    let said = successor.said();
    assert_eq!(said.matches("call.responded").count(), 1, "{said}");
}

/// A process of the origin also takes calls and aborts through two queues: if one read brings several calls and the
/// abort of any but the first, it sees the abort before that call, which then runs on.
#[tokio::test]
async fn an_abort_waits_until_its_spoke_has_the_call_in_the_origins_dialect() {
    let hub = hub().await;
    let mut origin = origins_spoke(&hub, "watch", "subscription").await;
    let mut caller = Wire::connect(&hub, &hub.admin).await;

    for id in ["c1", "c2", "c3"] {
        caller.call(Dialect::Origin, id, "text.watch", json!(id)).await;
    }
    caller.send(&abort("c2")).await;
    caller.expect("call.aborted").await;
    // A call that is made later does not have to wait.
    caller.call(Dialect::Origin, "c4", "text.watch", json!("c4")).await;
    origin.until_said(br#""input":"c4""#).await;
    origin.until_said(&PING).await;

    let said = origin.said();
    assert!(!said.contains("call.aborted"), "{said}");
    let (before, _) = said
        .split_once(r#","operationId":"text.watch","input":"c2""#)
        .expect("sent");
    let (_, id) = before.rsplit_once(r#""requestId":"#).expect("has an id");
    let wanted = format!(r#"{{"type":"call.aborted","id":"","payload":{{"requestId":{id}"#);
    origin.answer_ping().await;
    origin.until_said(wanted.as_bytes()).await;
}

/// A spoke that answers no pings gets its aborts all the same.
#[tokio::test]
async fn an_abort_comes_after_two_beats_where_the_spoke_answers_no_ping() {
    let hub = hub_with(|config| config.server.ping_interval = Duration::from_millis(300)).await;
    let mut origin = origins_spoke(&hub, "slow", "query").await;
    let mut caller = Wire::connect(&hub, &hub.admin).await;

    caller.call(Dialect::Origin, "c1", "text.slow", json!("a")).await;
    caller.send(&abort("c1")).await;

    origin.until_said(b"call.aborted").await;
}
