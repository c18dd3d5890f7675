//! Peers that do not read what they are sent, or do not finish what they send.

use std::time::Duration;

use alkhub_test_support::{RedisServer, until};
use futures::SinkExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::bare::{Bare, text};
use crate::cluster::pair;
use crate::harness::{LIMIT, TestHub, hub_with, in_flight};
use crate::wire::{Dialect, Wire, operation};

/// The first byte of a message, and the announcement of a hundred more.
fn begun() -> Vec<u8> {
    vec![0x81, 0x80 | 100, 0, 0, 0, 0, b'{']
}

/// Subscribes to `fill:1` and lets the hub write more there than the kernel takes.
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

/// Waits until the hub has no more WebSockets than these.
pub(super) async fn left(hub: &TestHub, websockets: usize) {
    until("the socket is cut", || async {
        match hub.hub.websockets() {
            open if open == websockets => Ok(()),
            open => Err(format!("{open} WebSockets are open")),
        }
    })
    .await;
}

/// Fails when the watcher of `told:1` was told something.
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
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_acts_no_more_and_is_cut_though_it_does_not_read() {
    let hub = hub_with(|config| config.server.dead_after = 10 * LIMIT).await;
    let mut watcher = watcher(&hub).await;
    let (key, _) = hub.key(&SCOPES).await;
    // A client's frame without a mask, and a text that is no UTF-8.
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
    // What it says while the hub takes its word crosses to the other.
    peer.send(&told()).await;
    assert_eq!(watcher.expect("told").await["payload"], "after the end");

    let mut witness = Wire::connect(&hub, &hub.admin).await;

    let ((), ()) = tokio::join!(hub.hub.shutdown(), async {
        // From the moment in which the sockets are told to close.
        assert_eq!(witness.closed().await.0, 1001);
        peer.send(&told()).await;
    });

    assert_eq!(hub.hub.websockets(), 0);
    nothing_was_told(&other, &mut watcher).await;
}

#[tokio::test]
async fn a_suspended_spokes_calls_fail_at_once_though_its_socket_is_blocked() {
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
