//! Lists of operations: what they show to whom, and on which pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use alkhub_calls::{Caller, ListQuery};
use alkhub_protocol::{Code, PAYLOAD_LIMIT_BYTES};
use serde_json::{Value, json};

use crate::fixture::{Hub, Spoke, admin, client, operation, query, request};

async fn listed(hub: &Hub, caller: &Arc<Caller>, name: &str, input: Value) -> Value {
    let output = hub.calls.call(caller, request(name, input)).await.expect("listed");
    assert!(output.len() <= PAYLOAD_LIMIT_BYTES, "{} bytes", output.len());
    output.to::<Value>().expect("JSON")["data"].clone()
}

fn names(data: &Value) -> Vec<&str> {
    let operations = data["operations"].as_array().expect("a list");
    operations
        .iter()
        .map(|o| o["operation"].as_str().expect("a name"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_whole_number_may_be_written_with_a_point_or_an_exponent() {
    let hub = Hub::local().await;
    let _spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let input = |text: &str| alkhub_protocol::RawJson::parse(text.to_owned()).expect("JSON");
    let list = |text: &str| alkhub_protocol::CallRequest {
        input: Some(input(text)),
        ..request("hub.list", json!(null))
    };
    let call = |number: &str| alkhub_protocol::CallRequest {
        input: Some(input(&format!(r#"{{"operation":"text.upper","timeoutMs":{number}}}"#))),
        ..request("hub.call", json!(null))
    };

    hub.calls
        .call(&admin(), list(r#"{"limit":5.0}"#))
        .await
        .expect("listed");
    for number in ["1000.0", "1e3"] {
        // Nobody answers: the call was routed, and its deadline passed.
        let error = hub.calls.call(&admin(), call(number)).await.expect_err("no answer");
        assert_eq!(error.code, Code::Timeout, "{number}");
    }
    let error = hub
        .calls
        .call(&admin(), call("1.5"))
        .await
        .expect_err("no whole number");
    assert_eq!(error.code, Code::ValidationError);
}

#[tokio::test(start_paused = true)]
async fn a_list_shows_a_key_what_it_may_call_and_all_when_it_asks_for_all() {
    let hub = Hub::local().await;
    let scoped = |name: &str, scopes: &Value| operation(name, "query", &json!({ "accessControl": scopes }));
    let _spoke = Spoke::connect(
        &hub,
        "text",
        &[
            query("text.open"),
            scoped("text.mine", &json!({ "requiredScopes": ["text:read"] })),
            scoped(
                "text.theirs",
                &json!({ "requiredScopes": ["text:read"], "requiredScopesAny": ["team:a"] }),
            ),
            query("other.open"),
        ],
    )
    .await;
    let reader = client(&["operations:read", "call:text.*", "text:read"]);

    for (operation, input) in [("hub.list", json!({})), ("hub.search", json!({ "query": "a test" }))] {
        let data = listed(&hub, &reader, operation, input.clone()).await;
        assert_eq!(names(&data), ["text.mine", "text.open"], "{operation}");
        assert_eq!(data["total"], 2, "{operation}");
        let mut all = input;
        all["all"] = json!(true);
        assert_eq!(listed(&hub, &reader, operation, all).await["total"], 4, "{operation}");
    }
    let page = hub
        .calls
        .operation_page(&reader, &ListQuery::default())
        .expect("allowed");
    assert_eq!(page.total, 2);
    let nothing = client(&["operations:read"]);
    assert_eq!(listed(&hub, &nothing, "hub.list", json!(null)).await["total"], 0);
}

/// As an answer in one message, this list would be more than twice as large as a message may be.
#[tokio::test(start_paused = true)]
async fn a_large_list_comes_in_pages_that_fit_and_have_each_operation_once() {
    let hub = Hub::local().await;
    let long = "long \u{1f4dc} \"quoted\" ".repeat(100);
    let mut spokes = Vec::new();
    for spoke in ["one", "two", "three"] {
        let specs = (0..300).map(|i| operation(&format!("{spoke}.op{i:03}"), "query", &json!({ "description": long })));
        let specs: Vec<Value> = specs.collect();
        spokes.push(Spoke::connect(&hub, spoke, &specs).await);
    }

    for (limit, least) in [(None, 3), (Some(50), 18)] {
        let (mut seen, mut cursor, mut pages) = (BTreeSet::new(), Value::Null, 0);
        loop {
            let mut input = json!({ "query": "quoted" });
            if let Some(limit) = limit {
                input["limit"] = json!(limit);
            }
            if cursor.is_string() {
                input["cursor"] = cursor;
            }
            let data = listed(&hub, &admin(), "hub.search", input).await;
            assert_eq!(data["total"], 900);
            assert!(limit.is_none_or(|limit| names(&data).len() <= limit));
            for name in names(&data) {
                assert!(seen.insert(name.to_owned()), "{name} came twice");
            }
            pages += 1;
            cursor = data["next"].clone();
            if cursor.is_null() {
                break;
            }
        }
        assert_eq!(seen.len(), 900);
        assert!(pages >= least, "{pages} pages");
    }
    let wrong = hub
        .call("hub.list", json!({ "limit": 0 }))
        .await
        .expect_err("no operations");
    assert_eq!(wrong.code, Code::ValidationError);
}
