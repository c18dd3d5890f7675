//! Bytes that no WebSocket library would send, on a real socket.

use alkhub_test_support::until;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{LIMIT, TestHub, hub, hub_with};
use crate::wire::{Dialect, Wire, operation};

/// Masked with zeros, which leaves the payload as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

async fn upgraded(hub: &TestHub) -> TcpStream {
    let mut socket = TcpStream::connect(hub.hub.url().replace("http://", ""))
        .await
        .expect("connects");
    let handshake = format!(
        "GET /v1/ws HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        hub.admin
    );
    socket.write_all(handshake.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.expect("read"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    socket
}

/// Everything that the hub says until it closes its side.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(LIMIT, socket.read_to_end(&mut rest)).await;
    read.expect("closed in time").expect("read");
    rest
}

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
        let mut socket = upgraded(&hub).await;
        socket.write_all(&bytes).await.expect("written");

        let said = rest(&mut socket).await;

        assert_eq!(said[0], 0x88, "{case}: {said:?}");
        assert_eq!(u16::from_be_bytes([said[2], said[3]]), code, "{case}");
    }
}

#[tokio::test]
async fn a_ping_between_fragments_is_answered_and_a_close_is_returned() {
    let hub = hub().await;
    let mut socket = upgraded(&hub).await;
    let text = br#"{"type":"__unsubscribe","id":"","payload":"a:1"}"#;
    let bytes = [
        frame(0x01, &text[..10]),
        frame(0x89, b"still there?"),
        frame(0x80, &text[10..]),
        frame(0x88, &1000_u16.to_be_bytes()),
    ]
    .concat();
    for byte in bytes {
        socket.write_all(&[byte]).await.expect("written");
    }

    let said = rest(&mut socket).await;

    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("still there?"), "{text}");
    assert!(text.contains("__unsubscribed"), "{text}");
    assert!(said.ends_with(&[0x88, 2, 0x03, 0xE8]), "{said:?}");
}

/// Reads on until what was said has `wanted` in it.
async fn until_said(socket: &mut TcpStream, said: &mut Vec<u8>, wanted: &[u8]) {
    let reading = async {
        while !said.windows(wanted.len()).any(|part| part == wanted) {
            assert_ne!(socket.read_buf(said).await.expect("read"), 0, "closed");
        }
    };
    let read = timeout(LIMIT, reading).await;
    read.unwrap_or_else(|_| panic!("{:?} is not in {}", wanted, String::from_utf8_lossy(said)));
}

/// A process of the origin takes items through a queue of its own and sees an end that the same read brings before them:
/// the end comes only when it has answered a ping after the items, so never with them.
#[tokio::test]
async fn the_end_of_a_stream_waits_until_its_reader_has_the_items_in_the_origins_dialect() {
    const PING: [u8; 2] = [0x89, 8];
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "watch", "subscription")])
        .await;
    for (end, ends) in [
        ("call.completed", "call.completed"),
        ("call.error", "call.error"),
        ("call.aborted", "call.aborted"),
    ] {
        let mut origin = upgraded(&hub).await;
        let call =
            r#"{"type":"call.requested","id":"","payload":{"requestId":"s","operationId":"text.watch","input":"a"}}"#;
        // Longer than a frame of 125 bytes may be, so in two fragments.
        let (one, two) = call.as_bytes().split_at(call.len() / 2);
        origin
            .write_all(&[frame(0x01, one), frame(0x80, two)].concat())
            .await
            .expect("written");
        let asked = spoke.expect("call.requested").await;
        for item in ["1", "2", "3"] {
            spoke.respond(&asked, json!(item)).await;
        }
        spoke.say(end, &asked, json!({ "code": "QUOTA" })).await;

        let mut said = Vec::new();
        until_said(&mut origin, &mut said, &PING).await;
        // Whatever else is asked meanwhile is answered, and the end still waits.
        origin
            .write_all(&frame(0x81, br#"{"type":"__unsubscribe","id":"","payload":"a:1"}"#))
            .await
            .expect("written");
        until_said(&mut origin, &mut said, b"__unsubscribed").await;
        let text = String::from_utf8_lossy(&said);
        assert_eq!(text.matches("call.responded").count(), 3, "{text}");
        assert!(!text.contains(ends), "{text}");
        let ping = said.windows(2).position(|part| part == PING).expect("seen");
        let token = said[ping + 2..ping + 10].to_vec();
        origin.write_all(&frame(0x8A, &token)).await.expect("written");

        said.clear();
        until_said(&mut origin, &mut said, ends.as_bytes()).await;
    }
}

/// Whoever answers no pings makes the hub keep only so much, and that is its key's.
#[tokio::test]
async fn ends_of_streams_that_wait_for_pongs_are_bounded_in_bytes_and_charged_to_their_reader() {
    const SIZE: usize = 600_000;
    let hub = hub_with(|config| {
        // No beat lets one go in the meantime.
        config.server.ping_interval = LIMIT * 3;
        config.server.dead_after = LIMIT * 6;
    })
    .await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "watch", "subscription")])
        .await;
    let mut origin = upgraded(&hub).await;
    let details = "x".repeat(SIZE);
    let (mut said, mut gone) = (Vec::new(), 0);
    for number in 0..5 {
        let call = format!(
            r#"{{"type":"call.requested","id":"","payload":{{"requestId":"s{number}","operationId":"text.watch","input":"a"}}}}"#
        );
        origin.write_all(&frame(0x81, call.as_bytes())).await.expect("written");
        let asked = spoke.expect("call.requested").await;
        spoke.respond(&asked, json!("1")).await;
        spoke
            .say("call.error", &asked, json!({ "code": "QUOTA", "details": details }))
            .await;
        // One may wait; the next makes it go.
        if number > 0 {
            until_said(&mut origin, &mut said, b"call.error").await;
            gone += 1;
            let end = said.windows(10).position(|part| part == b"call.error").expect("seen");
            said.drain(..end + 10);
        }
    }

    assert_eq!(gone, 4);
    let charged = hub.metric(r#"alkhub_budget_bytes{kept="queues"}"#).await.expect("told");
    assert!(charged > 500_000.0, "the one that waits is charged: {charged}");
    drop(origin);
    until("nothing is charged any more", || async {
        let charged = hub.metric(r#"alkhub_budget_bytes{kept="queues"}"#).await;
        if charged == Some(0.0) {
            Ok(())
        } else {
            Err(format!("{charged:?}"))
        }
    })
    .await;
}

/// Who stops a stream is told of it as of any other end of one that had items.
#[tokio::test]
async fn the_end_of_a_stream_that_its_caller_stops_waits_for_a_pong_as_well() {
    const PING: [u8; 2] = [0x89, 8];
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "watch", "subscription")])
        .await;
    let mut origin = upgraded(&hub).await;
    let call =
        r#"{"type":"call.requested","id":"","payload":{"requestId":"s","operationId":"text.watch","input":"a"}}"#;
    origin.write_all(&frame(0x81, call.as_bytes())).await.expect("written");
    let asked = spoke.expect("call.requested").await;
    spoke.respond(&asked, json!("1")).await;
    let mut said = Vec::new();
    until_said(&mut origin, &mut said, b"call.responded").await;

    let abort = r#"{"type":"call.aborted","id":"","payload":{"requestId":"s"}}"#;
    origin.write_all(&frame(0x81, abort.as_bytes())).await.expect("written");
    until_said(&mut origin, &mut said, &PING).await;
    let text = String::from_utf8_lossy(&said);
    assert!(!text.contains("call.aborted"), "{text}");
    let ping = said.windows(2).position(|part| part == PING).expect("seen");
    while said.len() < ping + 10 {
        origin.read_buf(&mut said).await.expect("read");
    }
    let token = said[ping + 2..ping + 10].to_vec();
    origin.write_all(&frame(0x8A, &token)).await.expect("written");

    until_said(&mut origin, &mut said, b"aborted by the caller").await;
}

/// The second dialect reads one stream of messages: its end waits for nothing.
#[tokio::test]
async fn the_end_of_a_stream_follows_its_items_at_once_in_the_second_dialect() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "watch", "subscription")])
        .await;
    let mut successor = upgraded(&hub).await;
    let call = r#"{"type":"call.requested","id":"s","payload":{"operationId":"text.watch","input":"a"}}"#;
    successor
        .write_all(&frame(0x81, call.as_bytes()))
        .await
        .expect("written");
    let asked = spoke.expect("call.requested").await;
    spoke.respond(&asked, json!("1")).await;
    spoke.say("call.completed", &asked, json!({})).await;

    let mut said = Vec::new();
    until_said(&mut successor, &mut said, b"call.completed").await;

    let text = String::from_utf8_lossy(&said);
    assert_eq!(text.matches("call.responded").count(), 1, "{text}");
}

/// A process of the origin takes calls and aborts through two queues too: where one read brings several calls and the
/// abort of a later one, it sees the abort first and runs on.
#[tokio::test]
async fn an_abort_waits_until_its_spoke_has_the_call_in_the_origins_dialect() {
    const PING: [u8; 2] = [0x89, 8];
    let hub = hub().await;
    let mut origin = upgraded(&hub).await;
    let register = json!({"type": "call.requested", "id": "", "payload": {"requestId": "r", "operationId": "hub.register",
        "input": {"name": "text", "operations": [operation("text", "watch", "subscription")]}}});
    send(&mut origin, register.to_string().as_bytes()).await;
    let mut said = Vec::new();
    until_said(&mut origin, &mut said, b"call.responded").await;
    let mut caller = Wire::connect(&hub, &hub.admin).await;

    for id in ["c1", "c2", "c3"] {
        caller.call(Dialect::Origin, id, "text.watch", json!(id)).await;
    }
    caller
        .send(&json!({"type": "call.aborted", "id": "", "payload": {"requestId": "c2"}}))
        .await;
    caller.expect("call.aborted").await;
    // A call that is made later does not wait.
    caller.call(Dialect::Origin, "c4", "text.watch", json!("c4")).await;
    until_said(&mut origin, &mut said, br#""input":"c4""#).await;
    until_said(&mut origin, &mut said, &PING).await;

    let text = String::from_utf8_lossy(&said).into_owned();
    assert!(!text.contains("call.aborted"), "{text}");
    let (before, _) = text
        .split_once(r#","operationId":"text.watch","input":"c2""#)
        .expect("sent");
    let (_, id) = before.rsplit_once(r#""requestId":"#).expect("has an id");
    let wanted = format!(r#"{{"type":"call.aborted","id":"","payload":{{"requestId":{id}"#);
    let ping = said.windows(2).position(|part| part == PING).expect("seen");
    let token = said[ping + 2..ping + 10].to_vec();
    origin.write_all(&frame(0x8A, &token)).await.expect("written");
    said.clear();
    until_said(&mut origin, &mut said, wanted.as_bytes()).await;
}

/// A masked text of any length up to 64 KiB.
async fn send(socket: &mut TcpStream, text: &[u8]) {
    let length = u16::try_from(text.len()).expect("not that long").to_be_bytes();
    let frame = [&[0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0], text].concat();
    socket.write_all(&frame).await.expect("written");
}

/// A spoke that answers no ping gets its aborts all the same.
#[tokio::test]
async fn an_abort_comes_after_two_beats_where_the_spoke_answers_no_ping() {
    let hub = hub_with(|config| config.server.ping_interval = std::time::Duration::from_millis(300)).await;
    let mut origin = upgraded(&hub).await;
    let register = json!({"type": "call.requested", "id": "", "payload": {"requestId": "r", "operationId": "hub.register",
        "input": {"name": "text", "operations": [operation("text", "slow", "query")]}}});
    send(&mut origin, register.to_string().as_bytes()).await;
    let mut said = Vec::new();
    until_said(&mut origin, &mut said, b"call.responded").await;
    let mut caller = Wire::connect(&hub, &hub.admin).await;

    caller.call(Dialect::Origin, "c1", "text.slow", json!("a")).await;
    caller
        .send(&json!({"type": "call.aborted", "id": "", "payload": {"requestId": "c1"}}))
        .await;

    until_said(&mut origin, &mut said, b"call.aborted").await;
}
