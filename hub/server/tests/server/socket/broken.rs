//! Messages about calls that cannot be read: nobody is left waiting for an answer that cannot come.

use serde_json::{Value, json};

use super::with_spoke;
use crate::harness::hub;
use crate::wire::{Dialect, Wire, operation};

/// `[[[…]]]`, nested deeper than a value may be.
fn deep() -> String {
    format!("{}{}", "[".repeat(66), "]".repeat(66))
}

/// A spoke's message about a call, with a payload given as text.
fn about(kind: &str, call: &Value, fields: &str) -> String {
    let (id, leg) = (&call["id"], &call["payload"]["requestId"]);
    format!(r#"{{"type":"{kind}","id":{id},"payload":{{"requestId":{leg},{fields}}}}}"#)
}

#[tokio::test]
async fn a_broken_call_is_answered_under_its_id_in_the_dialect_of_its_caller() {
    let hub = hub().await;
    let deep = format!(r#""input":{}"#, deep());
    for dialect in [Dialect::Origin, Dialect::Successor] {
        for (fields, code) in [
            (r#""timeoutMs":1500.5"#, "BAD_REQUEST"),
            (r#""target":"text""#, "BAD_REQUEST"),
            (r#""target":{"labels":{"gpu":"yes"}}"#, "UNSUPPORTED"),
            (r#""input":1,"input":2"#, "BAD_REQUEST"),
            (deep.as_str(), "BAD_REQUEST"),
        ] {
            let mut client = Wire::connect(&hub, &hub.admin).await;
            let (id, named) = match dialect {
                Dialect::Origin => ("", r#""requestId":"r9","#),
                Dialect::Successor => ("r9", ""),
            };
            client
                .text(&format!(
                    r#"{{"type":"call.requested","id":"{id}","payload":{{{named}"operationId":"text.upper",{fields}}}}}"#
                ))
                .await;

            let failed = client.expect("call.error").await;
            assert_eq!(failed["id"], id, "{failed}");
            assert_eq!(failed["payload"]["requestId"], "r9", "{failed}");
            assert_eq!(failed["payload"]["code"], code, "{fields}: {failed}");
            assert_eq!(failed["payload"]["delivered"], "no", "{failed}");
        }
    }
}

/// If a refusal were as large as what it refuses, it could exceed its reader's limit.
#[tokio::test]
async fn a_refusal_repeats_little_of_a_long_message() {
    let hub = hub().await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    let long = "x".repeat(1024 * 1024);
    for message in [
        json!({ "type": long, "id": "1", "payload": 1 }),
        json!({ "type": format!("__{long}"), "id": "", "payload": 1 }),
        json!({ "type": "call.requested", "id": "r", "payload": { "operationId": "a.b", "timeoutMs": long } }),
        json!({ "type": "hub.register", "id": "r", "payload": { "operations": "y".repeat(1024 * 1000) } }),
    ] {
        client.send(&message).await;
        let refused = client.recv().await.to_string();
        assert!(refused.len() < 2048, "{} bytes", refused.len());
    }
}

/// A message that reuses the id of a running call does not end the call, whether the message is broken or not.
#[tokio::test]
async fn a_request_id_that_is_in_use_is_refused_and_its_call_goes_on() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
    let call = spoke.expect("call.requested").await;

    client.call(Dialect::Origin, "c-1", "text.upper", json!("y")).await;
    let again = client.expect("__error").await;
    client
        .text(r#"{"type":"call.requested","id":"","payload":{"requestId":"c-1","timeoutMs":-1}}"#)
        .await;
    let broken = client.expect("__error").await;
    client
        .text(r#"{"type":"call.aborted","id":"","payload":{"requestId":"c-1","reason":1,"reason":2,"code":3}}"#)
        .await;
    let abort = client.expect("__error").await;

    for refused in [again, broken, abort] {
        assert_eq!(refused["payload"]["requestId"], "c-1", "{refused}");
        assert_eq!(refused["payload"]["code"], "BAD_REQUEST", "{refused}");
    }
    spoke.respond(&call, json!("X")).await;
    assert_eq!(client.expect("call.responded").await["payload"]["requestId"], "c-1");
}

#[tokio::test]
async fn a_spokes_answer_that_cannot_be_read_ends_its_call_at_once() {
    for dialect in [Dialect::Origin, Dialect::Successor] {
        let hub = hub().await;
        let mut spoke = with_spoke(&hub, dialect).await;
        let mut client = Wire::connect(&hub, &hub.admin).await;
        let deep = format!(r#""output":{}"#, deep());
        for (kind, fields, named) in [
            ("call.responded", deep.as_str(), "64 levels"),
            ("call.error", r#""code":3"#, "string"),
            ("call.error", r#""code":"A","code":"B""#, "duplicate"),
            ("call.completed", r#""deadline":"soon""#, "milliseconds"),
            ("call.responded", r#""output":[1,"#, "JSON"),
        ] {
            client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
            let call = spoke.expect("call.requested").await;
            spoke.text(&about(kind, &call, fields)).await;

            let failed = client.expect("call.error").await["payload"].clone();
            assert_eq!(failed["requestId"], "c-1", "{failed}");
            assert_eq!(failed["code"], "OUTPUT_INVALID", "{fields}: {failed}");
            assert_eq!(failed["delivered"], "yes", "{failed}");
            assert!(failed["message"].as_str().expect("a text").contains(named), "{failed}");
            let told = spoke.expect("__error").await["payload"].clone();
            assert_eq!(told["requestId"], call["payload"]["requestId"], "{told}");
            assert!(told["message"].as_str().expect("a text").contains(named), "{told}");
        }
        if dialect == Dialect::Successor {
            client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
            let call = spoke.expect("call.requested").await;
            spoke
                .send(&json!({ "type": "call.responded", "id": call["id"], "payload": 5 }))
                .await;
            assert_eq!(client.expect("call.error").await["payload"]["code"], "OUTPUT_INVALID");
            spoke.expect("__error").await;
        }
    }
}

#[tokio::test]
async fn an_item_that_cannot_be_read_ends_its_subscription_and_no_other() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "s-1", "text.watch", json!("a")).await;
    let bad = spoke.expect("call.requested").await;
    client.call(Dialect::Origin, "s-2", "text.watch", json!("b")).await;
    let good = spoke.expect("call.requested").await;

    spoke.respond(&bad, json!("1")).await;
    assert_eq!(client.expect("call.responded").await["payload"]["requestId"], "s-1");
    spoke
        .text(&about("call.responded", &bad, &format!(r#""output":{}"#, deep())))
        .await;
    spoke.respond(&bad, json!("3")).await;
    spoke.say("call.completed", &bad, json!({})).await;

    let failed = client.expect("call.error").await["payload"].clone();
    assert_eq!(
        (&failed["requestId"], &failed["code"]),
        (&json!("s-1"), &json!("OUTPUT_INVALID"))
    );
    // The abort waits for a pong, but nothing waits for the abort.
    spoke.expect("__error").await;
    let aborted = spoke.expect("call.aborted").await;
    assert_eq!(aborted["payload"]["requestId"], bad["payload"]["requestId"]);
    spoke.respond(&good, json!("1")).await;
    assert_eq!(client.expect("call.responded").await["payload"]["requestId"], "s-2");
}

/// A spoke cannot end a call that another spoke has got.
#[tokio::test]
async fn a_broken_answer_to_a_foreign_call_ends_nothing() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    let (key, _) = hub.spoke_key("other").await;
    let mut other = Wire::connect(&hub, &key).await;
    other
        .register(Dialect::Origin, &[operation("other", "upper", "query")])
        .await;
    let mut client = Wire::connect(&hub, &hub.admin).await;
    client.call(Dialect::Origin, "c-1", "text.upper", json!("x")).await;
    let call = spoke.expect("call.requested").await;

    other.text(&about("call.error", &call, r#""code":3"#)).await;
    other.expect("__error").await;
    spoke.respond(&call, json!("X")).await;

    assert_eq!(client.expect("call.responded").await["payload"]["requestId"], "c-1");
}

/// What only the hub can know is not believed when a spoke says it.
#[tokio::test]
async fn a_spokes_error_is_not_taken_for_the_hubs() {
    let hub = hub().await;
    let mut spoke = with_spoke(&hub, Dialect::Origin).await;
    for (code, wanted, status) in [
        ("UNAUTHENTICATED", "EXECUTION_ERROR", 502),
        ("RATE_LIMITED", "EXECUTION_ERROR", 502),
        ("bad\ncode", "UNKNOWN_ERROR", 502),
        ("ACCESS_DENIED", "ACCESS_DENIED", 403),
        ("QUOTA", "QUOTA", 502),
        ("NOT_FOUND", "NOT_FOUND", 502),
        ("CONFLICT", "CONFLICT", 502),
    ] {
        let input = json!("x");
        let (answer, ()) = tokio::join!(hub.post("/v1/call/text.upper", &input), async {
            let call = spoke.expect("call.requested").await;
            let forged = json!({ "code": code, "message": "m", "delivered": "no", "retryable": true });
            spoke.say("call.error", &call, forged).await;
        });

        assert_eq!(
            (answer.status, &answer.body["code"]),
            (status, &json!(wanted)),
            "{:?}",
            answer.body
        );
        assert_eq!(answer.body["delivered"], "yes", "{:?}", answer.body);
        if code != wanted {
            assert_eq!(answer.body["details"]["spokeCode"], code, "{:?}", answer.body);
        }
    }
}

/// A spoke's own `NOT_FOUND` or `CONFLICT` keeps its code, with the status that its operation declares.
#[tokio::test]
async fn a_declared_status_is_that_of_a_spokes_not_found_and_conflict() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("shop").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    let mut find = operation("shop", "find", "query");
    find["errorSchemas"] =
        json!([{ "code": "NOT_FOUND", "httpStatus": 404 }, { "code": "CONFLICT", "httpStatus": 412 }]);
    spoke.register(Dialect::Origin, &[find]).await;
    for (code, status) in [("NOT_FOUND", 404), ("CONFLICT", 412)] {
        let input = json!("x");
        let (answer, ()) = tokio::join!(hub.post("/v1/call/shop.find", &input), async {
            let call = spoke.expect("call.requested").await;
            spoke
                .say("call.error", &call, json!({ "code": code, "message": "m" }))
                .await;
        });

        answer.is_problem(status, code);
        assert_eq!(answer.body["delivered"], "yes", "{answer:?}");
    }
}
