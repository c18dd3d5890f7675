//! HTTP: calls, lists, and all error answers.

use std::time::Duration;

use alkhub_test_support::until;
use futures::StreamExt as _;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::harness::{Answer, LIMIT, TestHub, hub, hub_with};
use crate::wire::{Dialect, Wire, operation};

/// A spoke with a query, a subscription and a declared error, whose answers depend on the input.
async fn text_spoke(hub: &TestHub) -> Wire {
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(hub, &key).await;
    let mut upper = operation("text", "upper", "query");
    upper["errorSchemas"] = json!([{ "code": "TOO_LOUD", "description": "no", "schema": true, "httpStatus": 409 }]);
    spoke
        .register(Dialect::Origin, &[upper, operation("text", "watch", "subscription")])
        .await;
    spoke
}

async fn send(hub: &TestHub, request: reqwest::RequestBuilder) -> Answer {
    let answer = Answer::of(
        timeout(LIMIT, request.send())
            .await
            .expect("in time")
            .expect("answered"),
    )
    .await;
    assert_eq!(hub.management("/livez").await.status, 200);
    answer
}

#[tokio::test]
async fn a_call_is_answered_with_the_spokes_envelope() {
    let hub = hub().await;
    let mut spoke = text_spoke(&hub).await;
    let request = hub
        .request(Method::POST, "/v1/call/text.upper")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("x-request-id", "mine-1")
        .body("\"hello\"");

    let (answer, ()) = tokio::join!(send(&hub, request), async {
        let call = spoke.expect("call.requested").await;
        let trace = call["payload"]["metadata"]["traceparent"].as_str().expect("a trace");
        assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{trace}");
        spoke
            .respond(
                &call,
                json!({ "data": "HELLO", "meta": { "source": "http", "statusCode": 200 } }),
            )
            .await;
    });

    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.body,
        json!({ "data": "HELLO", "meta": { "source": "http", "statusCode": 200 } })
    );
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(
        hub.metric(r#"alkhub_http_requests_total{method="POST",route="/v1/call/{operation}",status="200"}"#)
            .await,
        Some(1.0)
    );
}

#[tokio::test]
async fn each_failure_of_a_call_has_its_status() {
    let hub = hub().await;
    let mut spoke = text_spoke(&hub).await;
    let (nothing, _) = hub.key(&["operations:read"]).await;
    let call = |input: &Value| hub.request(Method::POST, "/v1/call/text.upper").body(input.to_string());

    send(&hub, hub.client.post(format!("{}/v1/call/text.upper", hub.hub.url())))
        .await
        .is_problem(401, "UNAUTHENTICATED");
    let refused = send(
        &hub,
        hub.as_key(&nothing, Method::POST, "/v1/call/text.upper").body("\"x\""),
    )
    .await;
    refused.is_problem(403, "ACCESS_DENIED").names("call:text.upper");
    send(&hub, hub.request(Method::POST, "/v1/call/no.such"))
        .await
        .is_problem(404, "OPERATION_NOT_FOUND")
        .names("no.such");
    send(&hub, hub.request(Method::POST, "/v1/call/nodot"))
        .await
        .is_problem(400, "BAD_REQUEST")
        .names("namespace.operation");
    let invalid = send(&hub, call(&json!(5))).await;
    invalid.is_problem(422, "VALIDATION_ERROR");
    assert!(
        invalid.body["details"]["path"].is_string() && invalid.body["details"]["rule"].is_string(),
        "{invalid:?}"
    );
    let late = send(&hub, call(&json!("x")).header("alkhub-timeout", "soon")).await;
    late.is_problem(400, "BAD_REQUEST").names("Alkhub-Timeout");

    let late = send(&hub, call(&json!("x")).header("alkhub-timeout", "50ms")).await;
    late.is_problem(504, "TIMEOUT");
    spoke.expect("call.requested").await;
    spoke.expect("call.aborted").await;

    for (code, status) in [("TOO_LOUD", 409), ("EXECUTION_ERROR", 502), ("SOMETHING", 502)] {
        let (answer, ()) = tokio::join!(send(&hub, call(&json!("x"))), async {
            let call = spoke.expect("call.requested").await;
            spoke
                .say("call.error", &call, json!({ "code": code, "message": "it failed" }))
                .await;
        });
        answer.is_problem(status, code).names("it failed");
    }
    let (answer, ()) = tokio::join!(send(&hub, call(&json!("x"))), async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!(5)).await;
    });
    answer.is_problem(502, "OUTPUT_INVALID");
    let (answer, ()) = tokio::join!(send(&hub, call(&json!("x"))), async {
        spoke.expect("call.requested").await;
        drop(spoke);
    });
    answer.is_problem(502, "SPOKE_LOST");
    send(&hub, call(&json!("x"))).await.is_problem(503, "NO_PROVIDER");
}

#[tokio::test]
async fn a_body_that_is_wrong_too_large_or_too_deep_is_refused() {
    let hub = hub().await;
    let _spoke = text_spoke(&hub).await;
    let call = |body: String| hub.request(Method::POST, "/v1/call/text.upper").body(body);
    let full = 1024 * 1024;

    send(&hub, call("{".to_owned())).await.is_problem(400, "BAD_REQUEST");
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    send(&hub, call(deep))
        .await
        .is_problem(400, "BAD_REQUEST")
        .names("64 levels");
    send(&hub, call(format!("\"{}\"", "x".repeat(full))))
        .await
        .is_problem(413, "PAYLOAD_TOO_LARGE");
    let chunks = futures::stream::iter((0..17).map(move |_| Ok::<_, std::io::Error>(vec![b' '; full / 16])));
    let chunked = hub
        .request(Method::POST, "/v1/call/text.upper")
        .body(Body::wrap_stream(chunks));
    send(&hub, chunked).await.is_problem(413, "PAYLOAD_TOO_LARGE");
    let unknown = hub
        .request(Method::POST, "/v1/admin/keys")
        .body(json!({ "name": "x", "scopes": [], "color": 1 }).to_string());
    send(&hub, unknown).await.is_problem(400, "BAD_REQUEST").names("color");
}

#[tokio::test]
async fn no_route_wrong_method_and_bad_queries_are_problem_documents() {
    let hub = hub().await;

    hub.get("/nowhere").await.is_problem(404, "NOT_FOUND").names("/nowhere");
    let wrong = send(&hub, hub.request(Method::DELETE, "/v1/operations")).await;
    wrong.is_problem(405, "METHOD_NOT_ALLOWED");
    assert!(wrong.header("allow").contains("GET"), "{wrong:?}");
    hub.get("/v1/calls?limit=0")
        .await
        .is_problem(400, "BAD_REQUEST")
        .names("limit");
    hub.get("/v1/calls?limit=x")
        .await
        .is_problem(400, "BAD_REQUEST")
        .names("limit");
    hub.get("/v1/calls?before=x")
        .await
        .is_problem(400, "BAD_REQUEST")
        .names("cursor");
    hub.get("/v1/calls?status=odd")
        .await
        .is_problem(400, "BAD_REQUEST")
        .names("completed");
    hub.get("/v1/operations/%FF").await.is_problem(400, "BAD_REQUEST");
    hub.get("/v1/ws")
        .await
        .is_problem(426, "BAD_REQUEST")
        .names("WebSocket");
    hub.management("/nowhere").await.is_problem(404, "NOT_FOUND");
    assert_eq!(
        hub.metric(r#"alkhub_http_requests_total{method="GET",route="none",status="404"}"#)
            .await,
        Some(2.0)
    );
}

#[tokio::test]
async fn a_subscription_answers_as_events_and_leaving_aborts_it() {
    let hub = hub().await;
    let mut spoke = text_spoke(&hub).await;
    let start = || hub.request(Method::POST, "/v1/call/text.watch").body("\"a\"").send();

    let (answer, ()) = tokio::join!(async { Answer::of(start().await.expect("answered")).await }, async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("one")).await;
        spoke.say("call.completed", &call, json!({})).await;
    });
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let text = answer.text.replace("\r", "");
    assert!(
        text.contains("event: next\ndata: {\"data\":\"one\",\"meta\":"),
        "{text}"
    );
    assert!(text.ends_with("event: complete\ndata: {}\n\n"), "{text}");

    let (answer, ()) = tokio::join!(async { Answer::of(start().await.expect("answered")).await }, async {
        let call = spoke.expect("call.requested").await;
        spoke
            .say(
                "call.error",
                &call,
                json!({ "code": "EXECUTION_ERROR", "message": "broke" }),
            )
            .await;
    });
    assert!(
        answer
            .text
            .contains("event: error\ndata: {\"type\":\"urn:alkhub:problem:EXECUTION_ERROR\""),
        "{answer:?}"
    );

    let (response, call) = tokio::join!(start(), spoke.expect("call.requested"));
    drop(response.expect("answered"));
    let aborted = spoke.expect("call.aborted").await;
    assert_eq!(aborted["payload"]["requestId"], call["payload"]["requestId"]);
}

#[tokio::test]
async fn hub_call_answers_as_the_operation_that_it_calls() {
    let hub = hub().await;
    let mut spoke = text_spoke(&hub).await;
    let start = |operation: &str| {
        let input = json!({ "operation": operation, "input": "a" });
        hub.request(Method::POST, "/v1/call/hub.call").body(input.to_string())
    };

    let (stream, ()) = tokio::join!(send(&hub, start("text.watch")), async {
        let call = spoke.expect("call.requested").await;
        for item in ["one", "two"] {
            spoke.respond(&call, json!(item)).await;
        }
        spoke.say("call.completed", &call, json!({})).await;
    });
    let (single, ()) = tokio::join!(send(&hub, start("text.upper")), async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("A")).await;
    });

    assert_eq!(stream.header("content-type"), "text/event-stream", "{stream:?}");
    for event in [
        "event: next\ndata: {\"data\":\"one\",\"meta\":",
        "event: next\ndata: {\"data\":\"two\",\"meta\":",
        "event: complete\ndata: {}\n\n",
    ] {
        assert!(stream.text.contains(event), "{stream:?}");
    }
    assert_eq!((single.status, &single.body["data"]), (200, &json!("A")), "{single:?}");
    send(&hub, start("hub.call")).await.is_problem(400, "BAD_REQUEST");
    let wrong = hub.request(Method::POST, "/v1/call/hub.call").body("5");
    send(&hub, wrong).await.is_problem(422, "VALIDATION_ERROR");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_aborts_its_call() {
    let hub = hub().await;
    let mut spoke = text_spoke(&hub).await;
    let request = hub.request(Method::POST, "/v1/call/text.upper").body("\"x\"");

    let call = tokio::select! {
        answer = request.send() => panic!("answered: {answer:?}"),
        call = spoke.expect("call.requested") => call,
    };

    let aborted = spoke.expect("call.aborted").await;
    assert_eq!(aborted["payload"]["requestId"], call["payload"]["requestId"]);
}

#[tokio::test]
async fn operations_spokes_and_calls_are_listed_for_those_who_may() {
    let hub = hub().await;
    let mut spoke = text_spoke(&hub).await;
    let (nothing, _) = hub.key(&["call:*"]).await;

    let operations = hub.get("/v1/operations?search=upper").await;
    assert_eq!(operations.body["data"][0]["operation"], "text.upper", "{operations:?}");
    assert_eq!(operations.body["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        hub.get("/v1/operations/text.watch").await.body["data"]["type"],
        "subscription"
    );
    hub.get("/v1/operations/no.such")
        .await
        .is_problem(404, "OPERATION_NOT_FOUND");
    let mut seen = Vec::new();
    let mut path = "/v1/operations?limit=1".to_owned();
    for _ in 0..3 {
        let page = hub.get(&path).await;
        seen.extend(page.body["data"][0]["operation"].as_str().map(str::to_owned));
        match page.body["meta"]["next"].as_str() {
            Some(next) => path = format!("/v1/operations?limit=1&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["text.upper", "text.watch"]);
    let (reader, _) = hub.key(&["operations:read"]).await;
    for (path, found) in [("/v1/operations", 0), ("/v1/operations?all=true", 2)] {
        let list = send(&hub, hub.as_key(&reader, Method::GET, path)).await;
        assert_eq!(list.body["data"].as_array().map(Vec::len), Some(found), "{list:?}");
    }
    for wrong in ["limit=0", "limit=1001", "cursor=nodot", "all=yes"] {
        let refused = hub.get(&format!("/v1/operations?{wrong}")).await;
        refused.is_problem(400, "BAD_REQUEST");
    }
    let spokes = hub.get("/v1/spokes").await;
    assert_eq!(spokes.body["data"][0]["name"], "text", "{spokes:?}");
    assert_eq!(spokes.body["data"][0]["status"], "connected", "{spokes:?}");
    for (path, scope) in [
        ("/v1/operations", "operations:read"),
        ("/v1/spokes", "spokes:read"),
        ("/v1/calls", "calls:read"),
    ] {
        send(&hub, hub.as_key(&nothing, Method::GET, path))
            .await
            .is_problem(403, "ACCESS_DENIED")
            .names(scope);
    }

    let call = send(&hub, hub.request(Method::POST, "/v1/call/text.upper").body("\"x\""));
    let (answer, ()) = tokio::join!(call, async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("X")).await;
    });
    assert_eq!(answer.status, 200);
    until("the call is recorded", || async {
        let calls = hub.get("/v1/calls?operation=text.upper&status=completed&limit=1").await;
        match calls.body["data"][0]["spoke"].as_str() {
            Some("text") if calls.body["meta"]["next"].is_string() => Ok(()),
            _ => Err(calls.text),
        }
    })
    .await;
}

#[tokio::test]
async fn who_follows_ended_calls_gets_what_is_new_and_the_cursor_to_go_on_with() {
    let hub = hub().await;
    let _spoke = text_spoke(&hub).await;
    let call = async || hub.post("/v1/call/hub.list", &json!({})).await.status;
    let page = async |query: &str| hub.get(&format!("/v1/calls?{query}")).await;
    assert_eq!(call().await, 200);
    let begin = until("the call is recorded", || async {
        let newest = page("limit=1").await;
        newest.body["meta"]["next"]
            .as_str()
            .map(str::to_owned)
            .ok_or(newest.text)
    })
    .await;

    let nothing = page(&format!("after={begin}")).await;
    assert_eq!(call().await, 200);
    let (first, next) = until("the second call", || async {
        let followed = page(&format!("after={begin}")).await;
        let next = followed.body["meta"]["next"].as_str().map(str::to_owned);
        next.map(|next| (followed.body["data"].clone(), next))
            .ok_or(followed.text)
    })
    .await;
    let rest = page(&format!("after={next}")).await;

    assert_eq!((nothing.status, &nothing.body["data"]), (200, &json!([])));
    assert!(nothing.body["meta"]["next"].is_null(), "{}", nothing.text);
    assert_eq!(first.as_array().map(Vec::len), Some(1));
    assert_eq!((rest.status, &rest.body["data"]), (200, &json!([])));
}

#[tokio::test]
async fn the_hubs_own_operations_are_there_over_http() {
    let hub = hub().await;
    let _spoke = text_spoke(&hub).await;

    let list = hub.post("/v1/call/hub.list", &json!({})).await;

    assert_eq!(list.status, 200, "{list:?}");
    assert!(list.text.contains("text.upper"), "{list:?}");
}

#[tokio::test]
async fn every_described_route_is_served_and_the_document_needs_no_key() {
    let hub = hub().await;
    let document = Answer::of(
        hub.client
            .get(format!("{}/v1/openapi.json", hub.hub.url()))
            .send()
            .await
            .expect("answered"),
    )
    .await;
    assert_eq!(document.body, alkhub_server::openapi());

    for (path, methods) in document.body["paths"].as_object().expect("paths") {
        let path = path
            .replace("{operation}", "a.b")
            .replace("{name}", "a")
            .replace("{type}", "a")
            .replace("{id}", "a");
        for method in methods.as_object().expect("methods").keys() {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let url = format!("{}{path}", hub.hub.url());
            let answer = Answer::of(hub.client.request(method.clone(), url).send().await.expect("answered")).await;
            let expected = if path == "/v1/openapi.json" { 200 } else { 401 };
            assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn browsers_may_call_only_when_configured() {
    let closed = hub().await;
    let open =
        hub_with(|config| config.server.cors_origins = vec!["https://app.example".parse().expect("an origin")]).await;
    let preflight = async |hub: &TestHub, id: &str| {
        let request = hub
            .client
            .request(Method::OPTIONS, format!("{}/v1/operations", hub.hub.url()))
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization")
            .header("x-request-id", id);
        Answer::of(request.send().await.expect("answered")).await
    };

    // An empty id counts as absent.
    let refused = preflight(&closed, "").await;
    assert_eq!(refused.header("access-control-allow-origin"), "");
    let allowed = preflight(&open, "").await;
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert!(allowed.header("access-control-allow-headers").contains("authorization"));
    for answer in [&refused, &allowed] {
        assert_eq!(answer.header("x-request-id").len(), 36, "{answer:?}");
    }
    let named = preflight(&open, "page-1").await;
    assert_eq!(named.header("x-request-id"), "page-1");
    let simple = open
        .request(Method::GET, "/v1/operations")
        .header("origin", "https://app.example");
    let answer = Answer::of(simple.send().await.expect("answered")).await;
    assert_eq!(
        answer.header("access-control-expose-headers"),
        "x-request-id,retry-after"
    );
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_header_is_let_go() {
    let hub = hub_with(|config| config.server.header_timeout = Duration::from_millis(100)).await;
    let address = hub.hub.url().replace("http://", "");
    let mut slow = tokio::net::TcpStream::connect(address).await.expect("connects");
    slow.write_all(b"GET /v1/operations HTTP/1.1\r\nhost: x\r\n")
        .await
        .expect("written");

    let mut answer = Vec::new();
    let read = timeout(LIMIT, slow.read_to_end(&mut answer))
        .await
        .expect("closed in time");

    assert!(
        read.is_err() || answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn events_stream_is_read_piece_by_piece() {
    let hub = hub().await;
    let response = hub
        .request(Method::GET, "/v1/events?topic=a:1")
        .send()
        .await
        .expect("answered");
    let mut pieces = response.bytes_stream();

    let first = timeout(LIMIT, pieces.next())
        .await
        .expect("in time")
        .expect("a piece")
        .expect("read");

    assert!(first.starts_with(b"retry: "), "{first:?}");
}
