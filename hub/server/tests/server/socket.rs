//! WebSockets: both dialects as the origin's clients and spokes speak them, and everything that can be wrong.

mod broken;
mod greedy;
mod origin;
mod registrations;
mod sessions;
mod slow;

use alkhub_test_support::until;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::harness::{TestHub, hub, hub_with};
use crate::wire::{Dialect, Wire, operation, request};

/// A hub with a spoke that offers `text.upper` and `text.watch`.
async fn with_spoke(hub: &TestHub, dialect: Dialect) -> Wire {
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(hub, &key).await;
    let operations = [
        operation("text", "upper", "query"),
        operation("text", "watch", "subscription"),
    ];
    let data = spoke.register(dialect, &operations).await;
    assert_eq!(data["spokeId"], "text", "{data}");
    spoke
}

/// The caller and the spoke may speak different dialects; each is addressed in its own.
#[tokio::test]
async fn a_call_goes_to_a_spoke_and_back_in_every_mix_of_dialects() {
    for spoke_dialect in [Dialect::Origin, Dialect::Successor] {
        let hub = hub().await;
        let mut spoke = with_spoke(&hub, spoke_dialect).await;
        for dialect in [Dialect::Origin, Dialect::Successor] {
            let (key, _) = hub.key(&["call:text.*"]).await;
            let mut client = Wire::connect(&hub, &key).await;

            client.call(dialect, "c-1", "text.upper", json!("hello")).await;
            let call = spoke.expect("call.requested").await;
            assert_eq!(call["payload"]["operationId"], "text.upper");
            assert_eq!(call["payload"]["input"], "hello");
            assert_eq!(call["payload"]["identity"]["scopes"], json!([]), "{call}");
            assert_eq!(call["id"] == "", spoke_dialect == Dialect::Origin, "{call}");
            assert_ne!(
                call["payload"]["requestId"], "c-1",
                "the hub has ids of its own on the spoke's leg"
            );
            spoke.respond(&call, json!("HELLO")).await;

            let answer = client.expect("call.responded").await;
            assert_eq!(answer["id"], if dialect == Dialect::Origin { "" } else { "c-1" });
            assert_eq!(answer["payload"]["requestId"], "c-1");
            assert_eq!(answer["payload"]["output"]["data"], "HELLO");
            assert_eq!(answer["payload"]["output"]["meta"]["source"], "local");
        }
        hub.hub.shutdown().await;
    }
}

#[tokio::test]
async fn a_peer_that_speaks_binary_is_answered_in_binary() {
    let hub = hub().await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    let subscribe = json!({ "type": "__subscribe", "id": "", "payload": { "topic": "job:1" } }).to_string();

    client.message(Message::binary(subscribe.into_bytes())).await;
    assert!(client.next().await.is_binary(), "the acknowledgement");
    hub.post("/v1/events/job/1", &json!(1)).await;

    let Message::Binary(event) = client.next().await else {
        panic!("the event is not binary");
    };
    assert_eq!(&event[..], br#"{"type":"job","id":"1","payload":1}"#);
}

#[tokio::test]
async fn a_subscription_streams_until_it_completes_and_an_abort_reaches_the_spoke() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;

    client.call(Dialect::Origin, "s-1", "text.watch", json!("a")).await;
    let call = spoke.expect("call.requested").await;
    for item in ["1", "2"] {
        spoke.respond(&call, json!(item)).await;
        assert_eq!(client.expect("call.responded").await["payload"]["output"]["data"], item);
    }
    spoke.say("call.completed", &call, json!({})).await;
    assert_eq!(client.expect("call.completed").await["payload"]["requestId"], "s-1");

    client.call(Dialect::Origin, "s-2", "text.watch", json!("b")).await;
    let call = spoke.expect("call.requested").await;
    client
        .send(&json!({ "type": "call.aborted", "id": "", "payload": { "requestId": "s-2" } }))
        .await;
    let aborted = spoke.expect("call.aborted").await;
    assert_eq!(aborted["payload"]["requestId"], call["payload"]["requestId"]);
}

#[tokio::test]
async fn a_client_that_disconnects_aborts_its_calls() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
    let call = spoke.expect("call.requested").await;

    drop(client);

    let aborted = spoke.expect("call.aborted").await;
    assert_eq!(aborted["payload"]["requestId"], call["payload"]["requestId"]);
}

#[tokio::test]
async fn a_spoke_that_disconnects_fails_its_calls_at_once() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
    spoke.expect("call.requested").await;

    drop(spoke);

    let error = client.expect("call.error").await;
    assert_eq!(error["payload"]["code"], "SPOKE_LOST", "{error}");
    assert_eq!(error["payload"]["delivered"], "maybe", "{error}");
}

#[tokio::test]
async fn one_socket_can_be_spoke_and_caller() {
    let hub = hub().await;
    let created = hub
        .post(
            "/v1/admin/keys",
            &json!({ "name": "both", "scopes": ["spoke", "call:*"], "spoke": "text" }),
        )
        .await;
    let key = created.body["data"]["key"].as_str().expect("a key").to_owned();
    let mut both = Wire::connect(&hub, &key).await;
    both.register(Dialect::Origin, &[operation("text", "upper", "query")])
        .await;

    both.call(Dialect::Origin, "own", "text.upper", json!("x")).await;
    let call = both.expect("call.requested").await;
    both.respond(&call, json!("X")).await;

    assert_eq!(both.expect("call.responded").await["payload"]["output"]["data"], "X");
}

#[tokio::test]
async fn a_wrong_message_is_answered_and_ends_nothing() {
    let hub = hub().await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    let deep = format!(
        r#"{{"type":"a","id":"1","payload":{}{}}}"#,
        "[".repeat(65),
        "]".repeat(65)
    );
    for (sent, code, named) in [
        ("{", "BAD_REQUEST", "JSON"),
        ("[]", "BAD_REQUEST", "envelope"),
        (r#"{"id":"1"}"#, "BAD_REQUEST", "type"),
        (deep.as_str(), "BAD_REQUEST", "64 levels"),
        (r#"{"type":"__new","id":"","payload":{}}"#, "UNSUPPORTED", "__new"),
        (
            r#"{"type":"__hello","id":"","payload":{}}"#,
            "BAD_REQUEST",
            "must be the first message",
        ),
        (
            r#"{"type":"__subscribe","id":"","payload":{"topic":"call.requested:1"}}"#,
            "BAD_REQUEST",
            "reserved",
        ),
        (
            r#"{"type":"call.made","id":"1","payload":1}"#,
            "BAD_REQUEST",
            "reserved",
        ),
        (r#"{"type":"a:b","id":"1","payload":1}"#, "BAD_REQUEST", ":"),
        (
            r#"{"type":"__gap","id":"","payload":{"topic":"a:1","reason":"x"}}"#,
            "BAD_REQUEST",
            "only a hub",
        ),
    ] {
        client.text(sent).await;
        let refused = client.expect("__error").await;
        assert_eq!(refused["payload"]["code"], code, "{sent}: {refused}");
        assert!(
            refused["payload"]["message"].as_str().expect("a text").contains(named),
            "{sent}: {refused}"
        );
    }
    for (sent, code) in [
        (
            r#"{"type":"call.requested","id":"","payload":{"requestId":"r","operationId":"no dot"}}"#,
            "BAD_REQUEST",
        ),
        (
            r#"{"type":"call.requested","id":"","payload":{"requestId":"r","operationId":"no.such"}}"#,
            "OPERATION_NOT_FOUND",
        ),
        (
            r#"{"type":"hub.register","id":"r","payload":{"operations":5}}"#,
            "BAD_REQUEST",
        ),
    ] {
        client.text(sent).await;
        let failed = client.expect("call.error").await;
        assert_eq!(
            (&failed["payload"]["code"], &failed["payload"]["requestId"]),
            (&json!(code), &json!("r")),
            "{failed}"
        );
    }
    for late in ["call.responded", "call.completed", "call.aborted", "call.error"] {
        client
            .send(&json!({ "type": late, "id": "nobody", "payload": {} }))
            .await;
    }
    client.text(r#"{"type":"__unsubscribe","id":"","payload":"a:1"}"#).await;
    assert_eq!(client.expect("__unsubscribed").await["payload"]["topic"], "a:1");
}

#[tokio::test]
async fn input_and_output_that_break_their_schemas_are_told_with_path_and_rule() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;

    client.call(Dialect::Origin, "c-1", "text.upper", json!(5)).await;
    let error = client.expect("call.error").await;
    assert_eq!(error["payload"]["code"], "VALIDATION_ERROR", "{error}");
    assert!(
        error["payload"]["details"]["path"].is_string() && error["payload"]["details"]["rule"].is_string(),
        "{error}"
    );

    client.call(Dialect::Origin, "c-2", "text.upper", json!("x")).await;
    let call = spoke.expect("call.requested").await;
    spoke.respond(&call, json!(5)).await;
    let error = client.expect("call.error").await;
    assert_eq!(error["payload"]["code"], "OUTPUT_INVALID", "{error}");
    assert_eq!(error["payload"]["delivered"], "yes", "{error}");
}

#[tokio::test]
async fn a_spoke_is_told_which_operations_it_may_not_offer() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    let mut bad_schema = operation("text", "bad", "query");
    bad_schema["inputSchema"] = json!({ "type": 3 });
    let operations = [
        operation("text", "good", "query"),
        operation("other", "op", "query"),
        operation("hub", "list", "query"),
        bad_schema,
    ];

    spoke
        .call(
            Dialect::Successor,
            "r",
            "hub.register",
            json!({ "operations": operations }),
        )
        .await;

    let data = spoke.expect("call.responded").await["payload"]["output"]["data"].clone();
    let results: Vec<&Value> = data["operations"]
        .as_array()
        .expect("results")
        .iter()
        .map(|op| &op["result"])
        .collect();
    assert_eq!(results, ["registered", "rejected", "rejected", "rejected"], "{data}");
    assert!(data["operations"][1]["reason"].is_string(), "{data}");

    let (plain, _) = hub.key(&["call:*"]).await;
    let mut client = Wire::connect(&hub, &plain).await;
    client
        .call(Dialect::Origin, "r", "hub.register", json!({ "operations": [] }))
        .await;
    assert_eq!(client.expect("call.error").await["payload"]["code"], "ACCESS_DENIED");
}

#[tokio::test]
async fn a_payload_over_the_limit_is_refused_and_the_largest_one_travels() {
    let hub = hub().await;
    let mut payload = Wire::connect(&hub, &hub.admin).await;
    payload
        .text(&json!({ "type": "a", "id": "1", "payload": "x".repeat(1024 * 1024) }).to_string())
        .await;
    assert_eq!(payload.expect("__error").await["payload"]["code"], "PAYLOAD_TOO_LARGE");

    let mut full = Wire::connect(&hub, &hub.admin).await;
    full.text(r#"{"type":"__subscribe","id":"","payload":"a:1"}"#).await;
    full.expect("__subscribed").await;
    let largest = "x".repeat(1024 * 1024 - 2);
    full.text(&json!({ "type": "a", "id": "1", "payload": largest }).to_string())
        .await;
    assert_eq!(
        full.expect("a").await["payload"].as_str().map(str::len),
        Some(1024 * 1024 - 2)
    );
}

#[tokio::test]
async fn a_key_may_come_by_header_subprotocol_or_query_and_is_checked_before_the_upgrade() {
    let hub = hub().await;
    let (key, _) = hub.key(&[]).await;
    let mut protocol = request(&hub, None);
    let value = HeaderValue::from_str(&format!("alk.v1.json, alk.bearer.{key}")).expect("a header");
    protocol.headers_mut().insert("sec-websocket-protocol", value);
    let url = format!("{}/ws?access_token={key}", hub.hub.url().replacen("http", "ws", 1));
    let mut query = request(&hub, None);
    *query.uri_mut() = url.parse().expect("a URL");

    Wire::connect(&hub, &key).await;
    Wire::open(protocol).await.expect("connects");
    Wire::open(query).await.expect("connects");
    assert_eq!(Wire::refused(request(&hub, None)).await, 401);
    assert_eq!(
        Wire::refused(request(&hub, Some(&crate::harness::new_key()))).await,
        401
    );
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_let_go() {
    let hub = hub_with(|config| {
        config.server.ping_interval = std::time::Duration::from_millis(100);
        config.server.dead_after = std::time::Duration::from_secs(3);
    })
    .await;
    let silent = Wire::connect(&hub, &hub.admin).await;
    let mut alive = Wire::connect(&hub, &hub.admin).await;
    let open = || async { Ok::<_, String>(hub.hub.websockets()) };
    assert_eq!(open().await, Ok(2));

    // Pings are answered while reading: one peer keeps reading, the other does not.
    tokio::select! {
        message = alive.next() => panic!("{message:?}"),
        () = until("one socket is left", async || match hub.hub.websockets() {
            1 => Ok(()),
            open => Err(format!("{open} open")),
        }) => {}
    }
    alive.text(r#"{"type":"__subscribe","id":"","payload":"a:1"}"#).await;
    alive.expect("__subscribed").await;
    drop(silent);
}
