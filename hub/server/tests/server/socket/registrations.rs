//! Registrations by hash, and `hub.register.update`, as seen by a peer that knows frames and nothing else.

use alkhub_test_support::{RedisServer, until};
use serde_json::{Value, json};

use crate::cluster::{answers, knows_upper, pair};
use crate::harness::{TestHub, hub};
use crate::wire::{Dialect, Wire, operation};

/// The hash of `upper`, which is also in the golden test of the hash.
const UPPER: &str = "4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc";

/// The operation of the example in docs/PROTOCOL.md.
fn upper() -> Value {
    json!({
        "namespace": "text", "name": "upper", "type": "query",
        "inputSchema": { "type": "string" }, "outputSchema": true,
    })
}

/// Sends `__hello`; returns what is granted.
async fn hello(wire: &mut Wire, payload: Value) -> Value {
    wire.send(&json!({ "type": "__hello", "id": "", "payload": payload }))
        .await;
    wire.expect("__welcome").await["payload"].take()
}

/// A connection with a spoke's key that has sent `__hello`.
async fn greeted(hub: &TestHub, key: &str, hello_with: Value) -> (Wire, Value) {
    let mut wire = Wire::connect(hub, key).await;
    let welcome = hello(&mut wire, hello_with).await;
    (wire, welcome)
}

/// Sends a message of this type, and returns the payload of its answer.
async fn asks(wire: &mut Wire, kind: &str, payload: Value) -> Value {
    wire.send(&json!({ "type": kind, "id": "x", "payload": payload })).await;
    loop {
        let mut answer = wire.recv().await;
        if answer["type"] != "__ack" {
            assert_eq!(answer["payload"]["requestId"], "x", "{answer}");
            return answer["payload"].take();
        }
    }
}

#[tokio::test]
async fn a_peer_that_asks_for_hashes_is_told_them_and_names_specifications_by_them() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let (mut first, welcome) = greeted(&hub, &key, json!({ "features": ["hashes", "later"] })).await;
    assert_eq!(welcome["features"], json!(["hashes"]));
    let told = asks(
        &mut first,
        "hub.register",
        json!({ "instanceId": "i", "operations": [upper()] }),
    )
    .await;
    assert_eq!(
        told["output"]["data"]["operations"],
        json!([{ "name": "text.upper", "result": "registered", "hash": UPPER }])
    );

    let (mut again, _) = greeted(&hub, &key, json!({ "features": ["hashes"] })).await;
    let named = asks(
        &mut again,
        "hub.register",
        json!({ "instanceId": "i", "operations": [UPPER] }),
    )
    .await;
    let unknown = UPPER.replacen('4', "5", 1);
    let refused = asks(
        &mut again,
        "hub.register",
        json!({ "instanceId": "i", "operations": [UPPER, unknown] }),
    )
    .await;

    assert_eq!(
        named["output"]["data"]["operations"],
        json!([{ "name": "text.upper", "result": "registered" }])
    );
    assert_eq!(
        (&refused["code"], &refused["delivered"], &refused["retryable"]),
        (&json!("NOT_FOUND"), &json!("no"), &json!(false)),
        "{refused}"
    );
    assert_eq!(refused["details"], json!({ "unknown": [unknown] }));
    assert_eq!(first.closed().await.0, 4409);
    answers(&hub, &mut again).await;
}

#[tokio::test]
async fn a_peer_that_says_no_hello_sees_nothing_of_hashes_and_can_change_what_it_offers() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut plain = Wire::connect(&hub, &key).await;

    let whole = asks(&mut plain, "hub.register", json!({ "operations": [upper(), UPPER] })).await;
    let lower = operation("text", "lower", "query");
    let change = json!({ "add": [lower], "remove": ["text.upper"] });
    let changed = asks(&mut plain, "hub.register.update", change).await;
    let called = json!({ "requestId": "x", "operationId": "hub.register.update", "input": { "add": [upper()] } });
    let called = asks(&mut plain, "call.requested", called).await;
    let empty = asks(&mut plain, "hub.register.update", json!({ "remove": "text.upper" })).await;

    let results = whole["output"]["data"]["operations"].as_array().expect("results");
    assert_eq!(results[0], json!({ "name": "text.upper", "result": "registered" }));
    assert_eq!(results[1]["result"], "rejected");
    for (answer, name) in [(&changed, "text.lower"), (&called, "text.upper")] {
        let output = &answer["output"];
        assert_eq!(output["meta"]["operationId"], "hub.register.update", "{answer}");
        assert_eq!(
            output["data"]["operations"],
            json!([{ "name": name, "result": "registered" }])
        );
    }
    let generation = |answer: &Value| answer["output"]["data"]["generation"].as_u64().expect("a number");
    assert!(generation(&whole) < generation(&changed) && generation(&changed) < generation(&called));
    assert_eq!(empty["code"], "BAD_REQUEST");
    assert!(
        empty["message"]
            .as_str()
            .is_some_and(|m| m.contains("`hub.register.update`")),
        "{empty}"
    );
    let listed = hub.get("/v1/operations").await.body["data"].take();
    let names: Vec<&str> = listed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|o| o["operation"].as_str())
        .collect();
    assert_eq!(names, ["text.lower", "text.upper"]);
    let over_http = hub.post("/v1/call/hub.register.update", &json!({ "add": [] })).await;
    over_http.is_problem(501, "UNSUPPORTED");
}

#[tokio::test]
async fn a_change_goes_on_while_the_connection_is_lost_and_its_answer_comes_again() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let features = json!(["resume", "hashes"]);
    let (mut spoke, welcome) = greeted(&hub, &key, json!({ "features": features })).await;
    asks(&mut spoke, "hub.register", json!({ "operations": [upper()] })).await;
    let change = json!({ "add": [operation("text", "lower", "query")], "remove": ["text.upper"] });
    spoke
        .send(&json!({ "type": "hub.register.update", "id": "u", "payload": change }))
        .await;
    until("the change has taken effect", || async {
        let listed = hub.get("/v1/operations").await;
        let names: Vec<Value> = listed.body["data"].as_array().into_iter().flatten().cloned().collect();
        let names: Vec<&str> = names.iter().filter_map(|o| o["operation"].as_str()).collect();
        match names[..] {
            ["text.lower"] => Ok(()),
            _ => Err(listed.text),
        }
    })
    .await;
    // The answer to the change is lost, whether it was written or not.
    drop(spoke);

    let resume = json!({ "sessionId": welcome["sessionId"], "received": 1 });
    let (mut spoke, _) = greeted(&hub, &key, json!({ "features": features, "resume": resume })).await;

    spoke.expect("__resume").await;
    let answer = spoke.expect("call.responded").await;
    assert_eq!(answer["payload"]["requestId"], "u", "{answer}");
    let again = json!({ "add": [UPPER], "remove": ["text.lower"] });
    asks(&mut spoke, "hub.register.update", again).await;
    answers(&hub, &mut spoke).await;
}

#[tokio::test]
async fn a_session_that_has_moved_changes_what_it_offers_where_it_is() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let (key, _) = one.spoke_key("text").await;
    let features = json!(["resume", "hashes"]);
    let (mut spoke, welcome) = greeted(&one, &key, json!({ "features": features })).await;
    let first = asks(
        &mut spoke,
        "hub.register",
        json!({ "operations": [operation("text", "lower", "query")] }),
    )
    .await;
    let resume = json!({ "sessionId": welcome["sessionId"], "received": 1 });
    let (mut spoke, _) = greeted(&two, &key, json!({ "features": features, "resume": resume })).await;
    spoke.expect("__resume").await;

    let unknown = asks(
        &mut spoke,
        "hub.register.update",
        json!({ "add": [UPPER], "remove": ["text.lower"] }),
    )
    .await;
    let changed = asks(
        &mut spoke,
        "hub.register.update",
        json!({ "add": [upper()], "remove": ["text.lower"] }),
    )
    .await;

    assert_eq!(unknown["details"]["unknown"], json!([UPPER]), "{unknown}");
    let data = |answer: &Value| answer["output"]["data"].clone();
    assert_eq!(data(&changed)["instanceId"], data(&first)["instanceId"]);
    assert_eq!(data(&changed)["hubId"], two.hub.hub_id().as_str());
    for hub in [&one, &two] {
        knows_upper(hub).await;
        answers(hub, &mut spoke).await;
        let listed = hub.get("/v1/operations").await.body["data"].take();
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    }
}

/// The limits of a registration also hold for one that names specifications by their hashes.
#[tokio::test]
async fn ten_thousand_hashes_are_answered_in_one_message() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let (mut spoke, _) = greeted(&hub, &key, json!({ "features": ["hashes"] })).await;
    let entries: Vec<String> = (0..10_000).map(|i| format!("{i:043}")).collect();

    spoke
        .call(
            Dialect::Successor,
            "x",
            "hub.register",
            json!({ "operations": entries }),
        )
        .await;

    let refused = spoke.expect("call.error").await["payload"].take();
    assert_eq!(refused["code"], "NOT_FOUND");
    let unknown = refused["details"]["unknown"].as_array().map(Vec::len);
    // The setting limits how many of them are looked up.
    assert!(unknown.is_some_and(|unknown| unknown <= 1_000), "{unknown:?}");
}
