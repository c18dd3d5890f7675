//! Query parameters: a request with one that its route does not know is refused, and nothing is done.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, TestHub, hub};

async fn put(hub: &TestHub, name: &str, declaration: &serde_json::Value) -> Answer {
    let request = hub.request(Method::PUT, &format!("/v1/admin/spokes/{name}"));
    Answer::of(request.json(declaration).send().await.expect("answered")).await
}

async fn ask(hub: &TestHub, method: &str, path: &str) -> Answer {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    Answer::of(hub.request(method, path).send().await.expect("answered")).await
}

#[tokio::test]
async fn a_misspelled_parameter_deletes_nothing() {
    let hub = hub().await;
    assert_eq!(put(&hub, "fence", &json!({ "uid": "right" })).await.status, 201);

    for (query, named) in [
        ("uuid=wrong", "uuid"),
        ("uid=wrong&uid=right", "uid"),
        ("uid=%FF", "uid"),
        ("%FF=x", "query parameter"),
        ("Uid=right", "Uid"),
        ("uid=right&access_token=a&access_token=b", "access_token"),
    ] {
        let answer = ask(&hub, "DELETE", &format!("/v1/admin/spokes/fence?{query}")).await;
        answer.is_problem(400, "BAD_REQUEST").names(named);
    }

    assert_eq!(hub.get("/v1/admin/spokes/fence").await.status, 200, "it is still there");
    let token = format!("/v1/admin/spokes/fence?uid=right&access_token={}", hub.admin);
    assert_eq!(ask(&hub, "DELETE", &token).await.status, 204);
}

#[tokio::test]
async fn no_route_passes_over_a_parameter_that_it_does_not_declare() {
    let hub = hub().await;
    let document = hub.get("/v1/openapi.json").await.body;
    let mut tried = 0;

    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let path = path.replace(['{', '}'], "");
            let answer = ask(&hub, &method.to_uppercase(), &format!("{path}?nonsense=1")).await;
            answer.is_problem(400, "BAD_REQUEST").names("nonsense");
            tried += 1;
        }
    }

    assert!(tried > 15, "{tried}");
}

#[tokio::test]
async fn an_event_is_published_to_a_topic_that_no_path_names() {
    let hub = hub().await;

    for topic in ["job:..", "..:.", "job", "job:a b"] {
        let path = format!("/v1/events?topic={}", topic.replace(' ', "%20"));
        let answer = hub.post(&path, &json!("x")).await;
        let whole = if topic.contains(':') {
            topic.to_owned()
        } else {
            format!("{topic}:")
        };
        assert_eq!(
            (answer.status, &answer.body["data"]["topic"]),
            (202, &json!(whole)),
            "{answer:?}"
        );
    }
    for path in ["/v1/events", "/v1/events?topic=", "/v1/events?topic=job:*"] {
        hub.post(path, &json!("x"))
            .await
            .is_problem(400, "BAD_REQUEST")
            .names("topic");
    }
}

#[tokio::test]
async fn what_is_said_of_a_key_that_is_not_given_is_refused_by_name() {
    let hub = hub().await;

    for (field, value) in [
        ("overlapSeconds", json!(60)),
        ("keyExpiresAt", json!("2040-01-01T00:00:00Z")),
    ] {
        let answer = put(&hub, "patient", &json!({ "uid": "u", field: value })).await;
        answer.is_problem(400, "BAD_REQUEST").names(field);
    }

    let nothing = put(&hub, "patient", &json!({ "uid": "u", "overlapSeconds": 0 })).await;
    assert_eq!(nothing.status, 201, "{nothing:?}");
}
