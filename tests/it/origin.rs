//! What processes of the origin mean by `undefined` and by their clocks, on their wire: in calls that cross hubs and in
//! calls that do not.

use alkhub_test_support::until;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// An operation with these schemas in place of the usual ones.
fn typed(name: &str, kind: &str, schemas: &Value) -> Value {
    let mut spec = operation("t", name, kind);
    let fields = spec.as_object_mut().expect("an object");
    fields.extend(schemas.as_object().expect("an object").clone());
    spec
}

/// A spoke of the origin on the second of two hubs, whose operations the first one knows.
async fn origin(operations: Vec<Value>) -> Result<(Cluster, Peer)> {
    let cluster = Cluster::start(2).await?;
    let mut spoke = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    let answer = spoke.register("t", json!(operations)).await?;
    for result in answer["operations"].as_array().context("a list")? {
        assert_eq!(result["result"], "registered", "{result}");
    }
    let http = Http::new(cluster.url(0), cluster.admin());
    until("the other hub knows all operations", || async {
        let answer = http.send("GET", "/v1/operations", None).await;
        let answer = answer.map_err(|e| e.to_string())?;
        match answer.body["data"].as_array().map(Vec::len) {
            Some(known) if known == operations.len() => Ok(()),
            _ => Err(answer.body.to_string()),
        }
    })
    .await;
    Ok((cluster, spoke))
}

/// Answers the next call with `data`; returns what the spoke was sent.
async fn answer(spoke: &mut Peer, data: Value) -> Result<Value> {
    let asked = spoke.next_of("call.requested").await?["payload"].clone();
    let output = json!({"data": data, "meta": {"source": "local"}});
    let answer = json!({"requestId": asked["requestId"], "output": output});
    spoke.send("call.responded", "", answer).await?;
    Ok(asked)
}

/// Input schemas as TypeBox writes them, each with what a handler of the origin gets for an absent input and for
/// `null`.
fn inputs() -> Vec<(Value, Option<Value>, Option<Value>)> {
    let null = || Some(Value::Null);
    let (void, undefined, object) = (
        json!({"type": "void"}),
        json!({"type": "undefined"}),
        json!({"type": "object", "properties": {}}),
    );
    vec![
        (void.clone(), None, None),
        (json!({"anyOf": [undefined, object]}), None, None),
        (
            json!({"anyOf": [{"anyOf": [object, void]}, {"type": "Date"}]}),
            None,
            None,
        ),
        (json!({}), None, null()),
        (json!({"anyOf": [undefined, {"type": "null"}]}), None, null()),
        (json!({"type": "null"}), null(), null()),
        (json!({"type": ["object", "null"]}), null(), null()),
        (json!(true), null(), null()),
        (
            json!({"$schema": "https://json-schema.org/draft/2020-12/schema"}),
            null(),
            null(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_of_nothing_reaches_a_spoke_of_the_origin_as_its_schema_takes_it() -> Result<()> {
    let inputs = inputs();
    let specs = inputs.iter().enumerate();
    let specs = specs.map(|(i, (schema, ..))| typed(&format!("in{i}"), "query", &json!({"inputSchema": schema})));
    let (cluster, mut spoke) = origin(specs.collect()).await?;

    for hub in [0, 1] {
        let mut caller = Peer::connect(&cluster.url(hub), cluster.admin()).await?;
        for (i, (schema, absent, null)) in inputs.iter().enumerate() {
            let operation = format!("t.in{i}");
            for (request, wanted) in [
                (json!({"requestId": "r", "operationId": operation}), absent),
                (json!({"requestId": "r", "operationId": operation, "input": null}), null),
                (
                    json!({"requestId": "r", "operationId": "hub.call", "input": {"operation": operation}}),
                    absent,
                ),
                (
                    json!({"requestId": "r", "operationId": "hub.call", "input": {"operation": operation, "input": null}}),
                    null,
                ),
            ] {
                caller.send("call.requested", "", request.clone()).await?;
                let asked = answer(&mut spoke, json!("pong")).await?;
                let answered = caller.next_of("call.responded").await?;

                assert_eq!(
                    asked.get("input"),
                    wanted.as_ref(),
                    "hub {hub}, {schema}, {request}: {asked}"
                );
                assert_eq!(answered["payload"]["output"]["data"], "pong");
            }
        }
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_over_http_is_an_absent_input_and_is_recorded_as_null_is() -> Result<()> {
    let (cluster, mut spoke) = origin(vec![
        typed("any", "query", &json!({})),
        typed("null", "query", &json!({"inputSchema": {"type": "null"}})),
        typed("text", "query", &json!({"inputSchema": {"type": "string"}})),
    ])
    .await?;
    let http = Http::new(cluster.url(0), cluster.admin());

    for (path, body, wanted) in [
        ("/v1/call/t.any", None, None),
        ("/v1/call/t.any", Some(Value::Null), Some(Value::Null)),
        ("/v1/call/t.null", None, Some(Value::Null)),
    ] {
        let calling = http.clone();
        let sent = body.clone();
        let caller =
            tokio_util::task::TaskTracker::new().spawn(async move { calling.send("POST", path, sent.as_ref()).await });
        let asked = answer(&mut spoke, json!("pong")).await?;

        assert_eq!(caller.await??.status, 200);
        assert_eq!(asked.get("input"), wanted.as_ref(), "{path} {body:?}: {asked}");
    }
    let refused = http.send("POST", "/v1/call/t.text", None).await?;
    assert_eq!(refused.body["code"], "VALIDATION_ERROR", "{refused:?}");
    until("both calls are recorded with the four bytes of `null`", || async {
        let records = http.send("GET", "/v1/calls?operation=t.any", None).await;
        let records = records.map_err(|e| e.to_string())?.body["data"].clone();
        let bytes: Vec<&Value> = records
            .as_array()
            .into_iter()
            .flatten()
            .map(|r| &r["inputBytes"])
            .collect();
        if bytes == [&json!(4), &json!(4)] {
            Ok(())
        } else {
            Err(records.to_string())
        }
    })
    .await;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_of_the_second_dialect_gets_null_for_nothing() -> Result<()> {
    let cluster = Cluster::single().await?;
    let mut spoke = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let ping = typed("ping", "query", &json!({"inputSchema": {"type": "void"}}));
    let register = json!({"operationId": "hub.register", "input": {"name": "t", "operations": [ping]}});
    spoke.send("call.requested", "register", register).await?;
    spoke.next_of("call.responded").await?;
    let mut caller = Peer::connect(&cluster.url(0), cluster.admin()).await?;

    caller
        .send("call.requested", "", json!({"requestId": "r", "operationId": "t.ping"}))
        .await?;
    let asked = spoke.next_of("call.requested").await?;

    assert_eq!(asked["payload"].get("input"), Some(&Value::Null), "{asked}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_of_the_origins_clocks_is_taken_and_a_passed_one_is_a_timeout() -> Result<()> {
    let (cluster, mut spoke) = origin(vec![
        operation("t", "echo", "query"),
        operation("t", "watch", "subscription"),
    ])
    .await?;
    let mut caller = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    // As JavaScript writes them, and a hundred years from now, when they must not have passed.
    for deadline in [
        "4943980800000.25",
        "1e13",
        "100000000000000000000",
        "1.7976931348623157e+308",
        "9007199254740992",
    ] {
        let call = format!(
            r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r","operationId":"t.echo","deadline":{deadline}}}}}"#
        );
        caller.send_text(call).await?;
        answer(&mut spoke, json!(1)).await?;
        let answered = caller.next().await?;

        assert_eq!(answered["type"], "call.responded", "{deadline}: {answered}");
    }
    for deadline in ["-1", "-1e300", "0.5", "1500.5"] {
        let call = format!(
            r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r","operationId":"t.echo","deadline":{deadline}}}}}"#
        );
        caller.send_text(call).await?;
        let answered = caller.next().await?;

        assert_eq!(answered["payload"]["code"], "TIMEOUT", "{deadline}: {answered}");
    }
    for idle in ["1.7976931348623157e+308", "60000.5"] {
        let call = format!(
            r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r","operationId":"t.watch","idleTimeout":{idle}}}}}"#
        );
        caller.send_text(call).await?;
        let asked = spoke.next_of("call.requested").await?["payload"].clone();
        spoke
            .send("call.completed", "", json!({"requestId": asked["requestId"]}))
            .await?;
        let answered = caller.next().await?;

        assert_eq!(answered["type"], "call.completed", "{idle}: {answered}");
        assert!(asked["idleTimeout"].is_u64(), "{asked}");
    }
    cluster.shutdown().await;
    Ok(())
}

/// JSON omits a member whose value is `undefined`.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_without_its_undefined_members_is_valid() -> Result<()> {
    let error = json!({"anyOf": [{"type": "string"}, {"type": "undefined"}]});
    let output = |properties: Value| {
        let required: Vec<&String> = properties.as_object().expect("an object").keys().collect();
        json!({"outputSchema": {"type": "object", "properties": properties, "required": required}})
    };
    let (cluster, mut spoke) = origin(vec![
        typed(
            "union",
            "query",
            &output(json!({"ok": {"type": "boolean"}, "error": error})),
        ),
        typed("unknown", "query", &output(json!({"result": {}}))),
        typed("void", "query", &output(json!({"nothing": {"type": "void"}}))),
    ])
    .await?;
    let http = Http::new(cluster.url(0), cluster.admin());

    for (path, output, status) in [
        ("/v1/call/t.union", json!({"ok": true}), 200),
        ("/v1/call/t.union", json!({"error": "x"}), 502),
        ("/v1/call/t.union", json!({"ok": true, "error": 1}), 502),
        ("/v1/call/t.unknown", json!({}), 200),
        ("/v1/call/t.void", json!({}), 200),
    ] {
        let calling = http.clone();
        let caller = tokio_util::task::TaskTracker::new()
            .spawn(async move { calling.send("POST", path, Some(&json!({}))).await });
        answer(&mut spoke, output.clone()).await?;
        let answered = caller.await??;

        assert_eq!(answered.status, status, "{path} {output}: {answered:?}");
    }
    cluster.shutdown().await;
    Ok(())
}
