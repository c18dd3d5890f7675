//! What the origin's own processes do, and what they may expect.

use serde_json::{Value, json};

use super::with_spoke;
use crate::harness::{TestHub, hub};
use crate::wire::{Dialect, Wire, operation};

/// An operation without an output, as the origin describes it when its schema is turned into JSON Schema.
fn void(name: &str, kind: &str) -> Value {
    let mut void = operation("text", name, kind);
    void["outputSchema"] = json!({ "type": "null" });
    void
}

/// A spoke that registers with a message of its own, which has an id in the envelope.
async fn named_spoke(hub: &TestHub, id: &str, operations: &[Value]) -> (Wire, Value) {
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(hub, &key).await;
    let payload = json!({ "operations": operations, "spokeType": "dev-env" });
    spoke
        .send(&json!({ "type": "hub.register", "id": id, "payload": payload }))
        .await;
    let answer = spoke.expect("call.responded").await;
    (spoke, answer)
}

/// A process of the origin only understands calls whose envelope has no id, whatever it writes into `hub.register`.
#[tokio::test]
async fn an_id_on_a_registration_does_not_choose_the_dialect() {
    let hub = hub().await;
    let (mut spoke, answer) = named_spoke(&hub, "x", &[operation("text", "upper", "query")]).await;
    assert_eq!(
        (&answer["id"], &answer["payload"]["requestId"]),
        (&json!(""), &json!("x"))
    );

    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Successor, "c-1", "text.upper", json!("a")).await;
    let call = spoke.expect("call.requested").await;
    assert_eq!(call["id"], "", "{call}");

    // Its own calls decide: from then on it is answered in the dialect in which it asks.
    spoke.call(Dialect::Successor, "own", "no.such", json!("a")).await;
    assert_eq!(spoke.expect("call.error").await["id"], "own");
    spoke.text(r#"{"type":"hub.register","id":"y","payload":[]}"#).await;
    let refused = spoke.expect("call.error").await;
    assert_eq!(
        (&refused["id"], &refused["payload"]["requestId"]),
        (&json!("y"), &json!("y"))
    );
}

#[tokio::test]
async fn a_broken_registration_does_not_choose_the_dialect_either() {
    let hub = hub().await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.text(r#"{"type":"hub.register","id":"x","payload":[]}"#).await;
    let refused = client.expect("call.error").await;
    assert_eq!(
        (&refused["id"], &refused["payload"]["requestId"]),
        (&json!(""), &json!("x"))
    );
}

/// `undefined` is omitted from JSON, so that what remains of the origin's envelope is `{"meta": …}`.
#[tokio::test]
async fn an_output_without_data_stays_one_for_the_origin_and_is_null_elsewhere() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    let operations = [void("clear", "mutation"), void("beats", "subscription")];
    spoke.register(Dialect::Origin, &operations).await;
    let output = json!({ "meta": { "source": "local", "timestamp": 1 } });
    let mut origin = Wire::connect(&hub, &hub.admin).await;
    let mut successor = Wire::connect(&hub, &hub.admin).await;

    for name in ["text.clear", "text.beats"] {
        origin.call(Dialect::Origin, name, name, json!("a")).await;
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, output.clone()).await;
        assert_eq!(origin.expect("call.responded").await["payload"]["output"], output);

        successor.call(Dialect::Successor, name, name, json!("a")).await;
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, output.clone()).await;
        let whole = json!({ "data": null, "meta": { "source": "local", "timestamp": 1 } });
        assert_eq!(successor.expect("call.responded").await["payload"]["output"], whole);
    }
    let input = json!("a");
    let (answer, ()) = tokio::join!(hub.post("/v1/call/text.clear", &input), async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, output.clone()).await;
    });
    assert_eq!(answer.text, r#"{"data":null,"meta":{"source":"local","timestamp":1}}"#);
}

#[tokio::test]
async fn who_stops_a_call_is_told_once_that_it_has_stopped() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    let stop = |id: &str| json!({ "type": "call.aborted", "id": "", "payload": { "requestId": id } });
    for operation in ["text.upper", "text.watch"] {
        client.call(Dialect::Origin, "c-1", operation, json!("a")).await;
        spoke.expect("call.requested").await;

        client.send(&stop("c-1")).await;
        client.send(&stop("c-1")).await;

        let aborted = client.expect("call.aborted").await;
        assert_eq!(
            (&aborted["id"], &aborted["payload"]["requestId"]),
            (&json!(""), &json!("c-1"))
        );
        assert!(aborted["payload"]["reason"].is_string(), "{aborted}");
        spoke.expect("call.aborted").await;
    }

    // No abort is sent twice, nor for a call that has ended.
    client.call(Dialect::Origin, "c-2", "text.upper", json!("a")).await;
    let call = spoke.expect("call.requested").await;
    spoke.respond(&call, json!("A")).await;
    client.expect("call.responded").await;
    client.send(&stop("c-2")).await;
    client.text(r#"{"type":"__unsubscribe","id":"","payload":"a:1"}"#).await;
    client.expect("__unsubscribed").await;
}

#[tokio::test]
async fn a_refusal_about_a_topic_names_it_whatever_was_wrong() {
    let hub = hub().await;
    let (key, _) = hub.key(&[]).await;
    let mut client = Wire::connect(&hub, &key).await;
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let large = "x".repeat(1024 * 1024);
    for (sent, topic) in [
        (
            r#"{"type":"__subscribe","id":"","payload":"call.requested:1"}"#.to_owned(),
            "call.requested:1",
        ),
        (
            r#"{"type":"__subscribe","id":"","payload":{"topic":"no colon"}}"#.to_owned(),
            "no colon",
        ),
        (
            r#"{"type":"__unsubscribe","id":"","payload":{"type":"a:b","id":"1"}}"#.to_owned(),
            "a:b:1",
        ),
        (
            r#"{"type":"__subscribe","id":"","payload":{"topic":"a:1"},"payload":1}"#.to_owned(),
            "a:1",
        ),
        (
            r#"{"type":"__subscribe","id":"","payload":{"topic":"a:1"}"#.to_owned(),
            "a:1",
        ),
        (r#"{"type":"__subscribe","id":"","payload":"a:1"}"#.to_owned(), "a:1"),
        (
            r#"{"type":"__resume","id":"","payload":{"topic":"a:1","from":7}}"#.to_owned(),
            "a:1",
        ),
        (r#"{"type":"__subscribed","id":"","payload":"a:1"}"#.to_owned(), "a:1"),
        (
            r#"{"type":"__gap","id":"","payload":{"topic":"a:1","reason":"x"}}"#.to_owned(),
            "a:1",
        ),
        (format!(r#"{{"type":"a","id":"1","payload":{deep}}}"#), "a:1"),
        (format!(r#"{{"type":"a","id":"1","payload":"{large}"}}"#), "a:1"),
        (r#"{"type":"a","id":"1","payload":[1,"#.to_owned(), "a:1"),
        (r#"{"type":"a","id":"1","payload":1}"#.to_owned(), "a:1"),
        (r#"{"type":"a:b","id":"1","payload":1}"#.to_owned(), "a:b:1"),
        (r#"{"type":"call.made","id":"1","payload":1}"#.to_owned(), "call.made:1"),
    ] {
        client.text(&sent).await;
        let refused = client.expect("__error").await;
        let shown: String = sent.chars().take(200).collect();
        assert_eq!(refused["payload"]["topic"], topic, "{shown}: {refused}");
    }
}

/// A message that is too large costs one call, whoever sent it.
#[tokio::test]
async fn a_message_over_the_limit_fails_the_call_that_it_names_and_no_other() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    let large = "x".repeat(1024 * 1024 + 64 * 1024);
    client.call(Dialect::Origin, "running", "text.upper", json!("a")).await;
    let running = spoke.expect("call.requested").await;

    // The request id is expected at the beginning of a message: a peer that writes it last gets a refusal without it.
    let asked =
        r#"{"type":"call.requested","id":"","payload":{"requestId":"large","operationId":"text.upper","input":"#;
    client.text(&format!("{asked}\"{large}\"}}}}")).await;
    let failed = client.expect("call.error").await["payload"].clone();
    assert_eq!(
        (&failed["requestId"], &failed["code"]),
        (&json!("large"), &json!("PAYLOAD_TOO_LARGE"))
    );
    client
        .text(&format!(r#"{{"type":"job","id":"1","payload":"{large}"}}"#))
        .await;
    let refused = client.expect("__error").await["payload"].clone();
    assert_eq!(
        (&refused["topic"], &refused["code"]),
        (&json!("job:1"), &json!("PAYLOAD_TOO_LARGE"))
    );
    client.text(&" ".repeat(1024 * 1024 + 64 * 1024 + 1)).await;
    assert_eq!(client.expect("__error").await["payload"]["code"], "PAYLOAD_TOO_LARGE");

    let body = json!("b");
    let (answer, ()) = tokio::join!(hub.post("/v1/call/text.upper", &body), async {
        let call = spoke.expect("call.requested").await;
        let payload = format!(r#"{{"requestId":{},"output":"{large}"}}"#, call["payload"]["requestId"]);
        spoke
            .text(&format!(r#"{{"type":"call.responded","id":"","payload":{payload}}}"#))
            .await;
        spoke.expect("__error").await;
    });
    answer.is_problem(502, "PAYLOAD_TOO_LARGE");
    assert_eq!(answer.body["delivered"], "yes", "{answer:?}");
    spoke.respond(&running, json!("A")).await;
    assert_eq!(client.expect("call.responded").await["payload"]["requestId"], "running");
}

/// Names as in the origin's registries: a spoke is asked for what it offers in its own spelling.
#[tokio::test]
async fn a_name_of_the_origin_is_mapped_for_callers_and_spelled_as_it_was_for_its_spoke() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    let names = ["get/users/{id}", "users.list", "plain__2Elike"];
    let operations = names.map(|name| operation("text", name, "query"));
    let data = spoke.register(Dialect::Origin, &operations).await;
    assert_eq!(
        data["operations"][0]["name"], "text.get__2Fusers__2F__7Bid__7D",
        "{data}"
    );
    let list = hub.get("/v1/operations").await;
    assert_eq!(
        list.body["data"][0]["operation"], "text.get__2Fusers__2F__7Bid__7D",
        "{list:?}"
    );
    assert_eq!(list.body["data"][0]["name"], "get/users/{id}", "{list:?}");
    let (key, _) = hub
        .key(&["call:text.get__2Fusers__2F__7Bid__7D", "call:text.users__2Elist"])
        .await;
    let mut client = Wire::connect(&hub, &key).await;

    for (called, spelled) in [
        ("text.get__2Fusers__2F__7Bid__7D", "text.get/users/{id}"),
        ("text.get/users/{id}", "text.get/users/{id}"),
        ("/text/get/users/{id}", "text.get/users/{id}"),
        ("text.users.list", "text.users.list"),
        ("text.users__2Elist", "text.users.list"),
    ] {
        client.call(Dialect::Origin, "c", called, json!("a")).await;
        let call = spoke.expect("call.requested").await;
        assert_eq!(call["payload"]["operationId"], spelled, "{called}");
        spoke.respond(&call, json!("A")).await;
        client.expect("call.responded").await;
    }
    let path = "/v1/call/text.get%2Fusers%2F%7Bid%7D";
    let body = json!("a");
    let (answer, ()) = tokio::join!(hub.post(path, &body), async {
        let call = spoke.expect("call.requested").await;
        assert_eq!(call["payload"]["operationId"], "text.get/users/{id}");
        spoke.respond(&call, json!("A")).await;
    });
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The origin's spokes check scopes again, by what the hub tells them about the caller.
#[tokio::test]
async fn a_spoke_is_told_the_caller_that_the_key_proves_and_its_scopes_that_count() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    let mut scoped = operation("text", "upper", "query");
    scoped["accessControl"] = json!({
        "requiredScopes": ["text:read"], "requiredScopesAny": ["team:a", "team:b"], "customAuth": "ownsText",
    });
    spoke.register(Dialect::Origin, &[scoped]).await;
    let (key, id) = hub.key(&["call:*", "text:read", "team:b", "secret:other"]).await;
    let mut client = Wire::connect(&hub, &key).await;

    let payload = json!({
        "requestId": "c-1", "operationId": "text.upper", "input": "a", "parentRequestId": "parent-1",
        "identity": { "id": "mallory", "scopes": ["team:a"] },
        "metadata": { "project": { "id": 7 }, "traceparent": "00-a-b-01" },
    });
    client
        .send(&json!({ "type": "call.requested", "id": "", "payload": payload }))
        .await;
    let call = spoke.expect("call.requested").await;
    assert_eq!(
        call["payload"]["identity"],
        json!({ "id": id, "scopes": ["team:b", "text:read"] })
    );
    assert_eq!(call["payload"]["metadata"], payload["metadata"]);
    assert_eq!(call["payload"]["parentRequestId"], "parent-1");
    spoke.respond(&call, json!("A")).await;

    let request = hub
        .as_key(&key, reqwest::Method::POST, "/v1/call/text.upper")
        .header("alkhub-metadata", r#"{"project":{"id":8}}"#)
        .header("alkhub-parent-request-id", "parent-2")
        .body(r#""b""#);
    let (answer, ()) = tokio::join!(request.send(), async {
        let call = spoke.expect("call.requested").await;
        assert_eq!(call["payload"]["identity"]["id"], id);
        assert_eq!(call["payload"]["metadata"]["project"], json!({ "id": 8 }));
        assert_eq!(call["payload"]["parentRequestId"], "parent-2");
        spoke.respond(&call, json!("B")).await;
    });
    assert_eq!(answer.expect("answered").status(), 200);
    for (name, wrong) in [
        ("alkhub-metadata", "5"),
        ("alkhub-metadata", "{"),
        ("alkhub-parent-request-id", "two words"),
    ] {
        let request = hub.as_key(&key, reqwest::Method::POST, "/v1/call/text.upper");
        let refused = request.header(name, wrong).body("1").send().await.expect("answered");
        assert_eq!(refused.status(), 400, "{name}: {wrong}");
    }
}

#[tokio::test]
async fn nothing_of_a_specification_is_dropped_in_silence() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    let with = |name: &str, field: &str, value: Value| {
        let mut with = operation("text", name, "query");
        with[field] = value;
        with
    };
    let operations = [
        with("plain", "title", json!("t")),
        with("custom", "accessControl", json!({ "customAuth": "own" })),
        with("unknown", "rateLimit", json!(5)),
        with(
            "resource",
            "accessControl",
            json!({ "resourceType": "project", "resourceAction": "read" }),
        ),
    ];

    spoke
        .call(
            Dialect::Origin,
            "r",
            "hub.register",
            json!({ "operations": operations }),
        )
        .await;

    let data = spoke.expect("call.responded").await["payload"]["output"]["data"].clone();
    let results = data["operations"].as_array().expect("results");
    assert!(results[0].get("warnings").is_none(), "{data}");
    for (result, field) in [(&results[1], "accessControl.customAuth"), (&results[2], "rateLimit")] {
        assert_eq!(result["result"], "registered", "{data}");
        let warning = result["warnings"][0].as_str().expect("a warning");
        assert!(warning.contains(&format!("`{field}`")), "{warning}");
    }
    assert_eq!(results[3]["result"], "rejected", "{data}");
    let reason = results[3]["reason"].as_str().expect("a reason");
    assert!(reason.contains("`accessControl.resourceType`"), "{reason}");
}
