//! Peers that do not read what they are sent, or do not finish what they send.

use std::time::Duration;

use alkhub_test_support::{RedisServer, until, within};
use futures::SinkExt as _;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::bare::{Bare, text};
use crate::cluster::pair;
use crate::harness::{LIMIT, TestHub, hub_with, in_flight};
use crate::wire::{Dialect, Wire, operation};

/// The head of a message that announces a hundred bytes, and the first of them.
fn begun() -> Vec<u8> {
    vec![0x81, 0x80 | 100, 0, 0, 0, 0, b'{']
}

/// Subscribes to `fill:1` and makes the hub write more there than the kernel buffers.
async fn block(hub: &TestHub, peer: &mut Bare) {
    peer.message(&json!({ "type": "__subscribe", "id": "", "payload": "fill:1" }))
        .await;
    let large = json!("x".repeat(1_000_000));
    until("the subscription stands", || async {
        match hub.post("/v1/events/fill/1", &large).await.body["data"]["local"] {
            ref local if *local == 1 => Ok(()),
            ref local => Err(local.to_string()),
        }
    })
    .await;
    for _ in 0..16 {
        hub.post("/v1/events/fill/1", &large).await;
    }
}

fn told() -> Vec<u8> {
    text(r#"{"type":"told","id":"1","payload":"after the end"}"#)
}

/// Waits until the hub has only this many WebSockets left.
pub(super) async fn left(hub: &TestHub, websockets: usize) {
    until("the socket is cut", || async {
        match hub.hub.websockets() {
            open if open == websockets => Ok(()),
            open => Err(format!("{open} WebSockets are open")),
        }
    })
    .await;
}

/// Fails if the watcher of `told:1` was told anything.
async fn nothing_was_told(hub: &TestHub, watcher: &mut Wire) {
    hub.post("/v1/events/told/1", &json!("of the test")).await;
    assert_eq!(watcher.expect("told").await["payload"], "of the test");
}

/// A spoke that offers `text.upper` over a narrow socket.
pub(super) async fn narrow_spoke(hub: &TestHub, key: &str) -> Bare {
    let mut spoke = Bare::narrow(hub, key).await;
    let operations = [operation("text", "upper", "query")];
    spoke
        .message(&json!({ "type": "hub.register", "id": "r", "payload": { "operations": operations } }))
        .await;
    until("the spoke is registered", || async {
        match hub.get("/v1/operations").await.text.contains("text.upper") {
            true => Ok(()),
            false => Err("no operation"),
        }
    })
    .await;
    spoke
}

async fn watcher(hub: &TestHub) -> Wire {
    let mut watcher = Wire::connect(hub, &hub.admin).await;
    watcher
        .send(&json!({ "type": "__subscribe", "id": "", "payload": "told:1" }))
        .await;
    watcher.expect("__subscribed").await;
    watcher
}

const SCOPES: [&str; 2] = ["events:subscribe:fill", "events:publish:told"];

#[tokio::test]
async fn a_revoked_key_acts_no_more_and_is_cut_though_its_peer_does_not_read() {
    let hub = hub_with(|config| config.server.dead_after = 10 * LIMIT).await;
    let mut watcher = watcher(&hub).await;
    let (key, id) = hub.key(&SCOPES).await;
    let mut peer = Bare::narrow(&hub, &key).await;
    block(&hub, &mut peer).await;

    let revoked = hub.request(reqwest::Method::DELETE, &format!("/v1/admin/keys/{id}"));
    assert_eq!(revoked.send().await.expect("answered").status(), 200);
    peer.send(&told()).await;

    left(&hub, 1).await;
    nothing_was_told(&hub, &mut watcher).await;
}

#[tokio::test]
async fn a_peer_that_is_let_go_as_too_slow_acts_no_more_and_is_cut() {
    let hub = hub_with(|config| {
        config.server.dead_after = 10 * LIMIT;
        config.server.outbox_messages = 10;
    })
    .await;
    let mut watcher = watcher(&hub).await;
    let (key, _) = hub.key(&SCOPES).await;
    let mut peer = Bare::narrow(&hub, &key).await;
    block(&hub, &mut peer).await;

    let unread = text(r#"{"type":"__unsubscribe","id":"","payload":"fill:2"}"#).repeat(12);
    peer.send(&[unread, told()].concat()).await;

    left(&hub, 1).await;
    nothing_was_told(&hub, &mut watcher).await;
    // It reads too late: the close frame would come after what it has not read. It sees an end, or a reset.
    let mut late = Vec::new();
    drop(within("the socket ends", peer.socket.read_to_end(&mut late)).await);
    assert!(!late.is_empty());
    let reason = b"answers are not read fast enough";
    assert!(!late.windows(reason.len()).any(|part| part == reason));
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_acts_no_more_and_is_cut_though_it_does_not_read() {
    let hub = hub_with(|config| config.server.dead_after = 10 * LIMIT).await;
    let mut watcher = watcher(&hub).await;
    let (key, _) = hub.key(&SCOPES).await;
    // A client's frame without a mask, and a text that is not UTF-8.
    for broken in [&[0x81, 2, b'{', b'}'][..], &[0x81, 0x80 | 2, 0, 0, 0, 0, 0xFF, 0xFF]] {
        let mut peer = Bare::narrow(&hub, &key).await;
        block(&hub, &mut peer).await;

        peer.send(&[broken, &told()].concat()).await;

        left(&hub, 1).await;
    }
    nothing_was_told(&hub, &mut watcher).await;
}

#[tokio::test]
async fn a_drained_hubs_peer_acts_no_more_and_is_cut_though_it_does_not_read() {
    let redis = RedisServer::start().await;
    let (hub, other) = pair(&redis).await;
    let mut watcher = watcher(&other).await;
    let (key, _) = hub.key(&SCOPES).await;
    let mut peer = Bare::narrow(&hub, &key).await;
    block(&hub, &mut peer).await;
    // While the hub accepts its messages, what it sends crosses to the other hub.
    peer.send(&told()).await;
    assert_eq!(watcher.expect("told").await["payload"], "after the end");

    let (witness_key, _) = hub.spoke_key("text").await;
    let mut witness = Wire::connect(&hub, &witness_key).await;
    let hello = json!({ "type": "__hello", "id": "", "payload": { "features": ["resume"] } });
    witness.send(&hello).await;
    witness.expect("__welcome").await;
    witness
        .register(Dialect::Origin, &[operation("text", "upper", "query")])
        .await;

    let ((), ()) = tokio::join!(hub.hub.shutdown(), async {
        // Now the sockets have been told to close: a spoke whose session cannot move is not let go any earlier.
        assert_eq!(witness.closed().await.0, 1001);
        peer.send(&told()).await;
    });

    assert_eq!(hub.hub.websockets(), 0);
    nothing_was_told(&other, &mut watcher).await;
}

#[tokio::test]
async fn the_calls_of_a_spoke_whose_key_is_revoked_fail_at_once_though_its_socket_is_blocked() {
    let hub = hub_with(|config| config.server.dead_after = 10 * LIMIT).await;
    let create = json!({ "name": "slow", "scopes": ["spoke", "events:subscribe:fill"], "spoke": "text" });
    let (key, id) = hub.made(&create).await;
    let mut spoke = narrow_spoke(&hub, &key).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
    in_flight(&hub, 1).await;
    block(&hub, &mut spoke).await;

    let revoked = hub.request(reqwest::Method::DELETE, &format!("/v1/admin/keys/{id}"));
    assert_eq!(revoked.send().await.expect("answered").status(), 200);

    let error = client.expect("call.error").await;
    assert_eq!(error["payload"]["code"], "SPOKE_LOST", "{error}");
    assert_eq!(hub.hub.websockets(), 2, "the socket is still there");
}

#[tokio::test]
async fn a_peer_that_never_reads_is_cut_after_the_write_timeout_however_much_it_says() {
    let hub = hub_with(|config| config.server.write_timeout = Duration::from_secs(1)).await;
    let (key, _) = hub.key(&SCOPES).await;
    let mut peer = Bare::narrow(&hub, &key).await;
    block(&hub, &mut peer).await;

    until("the socket is cut", || {
        let said = peer.socket.try_write(&text(r#"{"type":"call.aborted","id":"x"}"#));
        let open = hub.hub.websockets();
        async move {
            if open == 0 {
                Ok(())
            } else {
                Err(format!("{open} open, {said:?}"))
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_that_does_not_end_in_time_ends_its_connection_by_name() {
    let hub = hub_with(|config| config.server.message_timeout = Duration::from_secs(1)).await;
    let (key, _) = hub.key(&[]).await;
    let mut peer = Bare::narrow(&hub, &key).await;
    let mut whole = Bare::narrow(&hub, &key).await;
    whole.text(r#"{"type":"__unsubscribe","id":"","payload":"a:1"}"#).await;

    peer.send(&begun()).await;
    peer.until_said(b"server.message-timeout").await;

    let code = 1008_u16.to_be_bytes();
    assert!(peer.said.windows(2).any(|two| two == code), "{:?}", peer.said);
    assert_eq!(hub.hub.websockets(), 2, "who ended its message stays");
}

#[tokio::test]
async fn answers_during_a_registration_keep_their_order_however_many_come() {
    const ITEMS: usize = 3_000;
    let hub = hub_with(|config| {
        config.calls.subscription_items = ITEMS;
        config.server.outbox_messages = 2 * ITEMS;
    })
    .await;
    let mut spoke = super::with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "s-1", "text.watch", json!("a")).await;
    let call = spoke.expect("call.requested").await;

    let mut operations = vec![operation("text", "watch", "subscription")];
    operations.extend((0..900).map(|i| operation("text", &format!("op{i}"), "query")));
    let register = json!({ "type": "hub.register", "id": "r", "payload": { "operations": operations } });
    spoke.0.feed(Message::text(register.to_string())).await.expect("sent");
    for number in 0..ITEMS {
        let payload = json!({ "requestId": call["payload"]["requestId"], "output": number.to_string() });
        let item = json!({ "type": "call.responded", "id": "", "payload": payload });
        spoke.0.feed(Message::text(item.to_string())).await.expect("sent");
    }
    spoke.0.flush().await.expect("sent");

    for number in 0..ITEMS {
        let item = client.expect("call.responded").await;
        assert_eq!(item["payload"]["output"]["data"], number.to_string());
    }
}

/// Answers that a caller does not read cost nobody else anything.
#[tokio::test]
async fn a_caller_that_reads_no_answers_is_closed_by_name_and_every_other_is_answered() {
    // The calls of each burst, with an abort for each, fit into the spoke's queue; the answers to both bursts do not
    // fit into the caller's.
    const FIRST: usize = 38;
    const SECOND: usize = 19;
    let hub = hub_with(|config| {
        config.server.dead_after = 10 * LIMIT;
        config.server.outbox_messages = 40;
    })
    .await;
    let mut spoke = Wire::spoke(&hub, &[operation("text", "upper", "query")]).await;
    let mut other = Wire::connect(&hub, &hub.admin).await;
    let (key, _) = hub.key(&["call:text.upper", "events:subscribe:fill"]).await;
    let mut slow = Bare::narrow(&hub, &key).await;
    block(&hub, &mut slow).await;
    let burst = |name: &str, calls: usize| {
        let calls = (0..calls).map(|number| {
            let payload = json!({ "operationId": "text.upper", "input": "x" });
            let call = json!({ "type": "call.requested", "id": format!("{name}-{number}"), "payload": payload });
            text(&call.to_string())
        });
        calls.collect::<Vec<_>>().concat()
    };
    slow.send(&burst("first", FIRST)).await;
    for _ in 0..FIRST {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("X")).await;
    }

    let serving = async {
        loop {
            let message = spoke.recv().await;
            if message["type"] == "call.requested" {
                spoke.respond(&message, json!("X")).await;
            }
        }
    };
    let calling = async {
        slow.send(&burst("second", SECOND)).await;
        for number in 0..SECOND {
            let id = format!("other-{number}");
            other.call(Dialect::Origin, &id, "text.upper", json!("x")).await;
            let answer = other.expect("call.responded").await;
            assert_eq!(answer["payload"]["requestId"], id, "{answer}");
        }
        slow.closed().await
    };
    let closed = tokio::select! {
        closed = calling => closed,
        () = serving => unreachable!("it serves for ever"),
    };

    assert_eq!(closed, (4429, "answers are not read as fast as they come".to_owned()));
    left(&hub, 2).await;
    in_flight(&hub, 0).await;
}

/// A peer asks for things that the hub itself answers, and reads no answer.
#[tokio::test]
async fn a_peer_that_reads_no_confirmations_is_closed_by_name() {
    let hub = hub_with(|config| {
        config.server.dead_after = 10 * LIMIT;
        config.server.outbox_messages = 10;
    })
    .await;
    let (key, _) = hub.key(&SCOPES).await;
    let mut peer = Bare::narrow(&hub, &key).await;
    block(&hub, &mut peer).await;

    let unread = text(r#"{"type":"__unsubscribe","id":"","payload":"fill:2"}"#).repeat(12);
    peer.send(&unread).await;

    assert_eq!(
        peer.closed().await,
        (1008, "answers are not read fast enough".to_owned())
    );
}

/// Calls that a spoke does not read are refused with a named error, or come back; other spokes get theirs.
#[tokio::test]
async fn a_spoke_that_reads_no_calls_is_overloaded_then_closed_and_its_neighbour_serves_on() {
    let hub = hub_with(|config| {
        config.server.dead_after = 10 * LIMIT;
        config.server.outbox_messages = 10;
    })
    .await;
    let create = json!({ "name": "slow", "scopes": ["spoke", "events:subscribe:fill"], "spoke": "text" });
    let (key, _) = hub.made(&create).await;
    let mut slow = narrow_spoke(&hub, &key).await;
    block(&hub, &mut slow).await;
    let (key, _) = hub.spoke_key("other").await;
    let mut neighbour = Wire::connect(&hub, &key).await;
    neighbour
        .register(Dialect::Origin, &[operation("other", "work", "query")])
        .await;
    let mut client = Wire::connect(&hub, &hub.admin).await;

    // Only refused calls are answered, and each refusal comes at once.
    let mut refused = 0;
    for number in 0..30 {
        client
            .call(Dialect::Origin, &format!("c-{number}"), "text.upper", json!("x"))
            .await;
        client.call(Dialect::Origin, "n", "other.work", json!("x")).await;
        let call = neighbour.expect("call.requested").await;
        neighbour.respond(&call, json!("X")).await;
        let mut answer = client.recv().await;
        if answer["type"] == "call.error" {
            let error = &answer["payload"];
            assert_eq!(
                (&error["code"], &error["delivered"], &error["retryable"]),
                (&json!("OVERLOADED"), &json!("no"), &json!(true)),
                "{error}"
            );
            refused += 1;
            answer = client.recv().await;
        }
        assert_eq!(
            (&answer["type"], &answer["payload"]["requestId"]),
            (&json!("call.responded"), &json!("n"))
        );
    }
    assert!((19..30).contains(&refused), "{refused} of 30");
    in_flight(&hub, 30 - refused).await;

    // There is no room to tell the spoke of an abort, so it is disconnected and its calls come back.
    client
        .send(&json!({ "type": "call.aborted", "id": "", "payload": { "requestId": "c-0" } }))
        .await;
    for _ in 0..30 - refused {
        let answer = client.recv().await;
        let (kind, error) = (&answer["type"], &answer["payload"]);
        let is_abort = *kind == "call.aborted" && error["requestId"] == "c-0";
        assert!(
            is_abort || (*kind == "call.error" && error["code"] == "SPOKE_LOST"),
            "{answer}"
        );
        assert!(is_abort || error["delivered"] == "no", "{answer}");
    }
    assert_eq!(
        slow.closed().await,
        (4429, "calls are not read as fast as they come".to_owned())
    );
    in_flight(&hub, 0).await;
}
