//! Limits: bad keys, requests, connections.

use alkhub_test_support::until;
use futures::future::join_all;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Answer, hub_with, new_key};
use crate::wire::{Wire, request};

#[tokio::test]
async fn an_address_with_too_many_bad_keys_gets_429_and_good_keys_go_on() {
    let hub = hub_with(|config| config.server.bad_keys_per_minute = 3).await;
    let try_key = async |key: &str| {
        Answer::of(
            hub.as_key(key, Method::GET, "/v1/operations")
                .send()
                .await
                .expect("answered"),
        )
        .await
    };
    hub.get("/v1/operations").await;

    try_key("alk_nonsense").await.is_problem(401, "UNAUTHENTICATED");
    try_key(&new_key()).await.is_problem(401, "UNAUTHENTICATED");
    try_key(&new_key()).await.is_problem(401, "UNAUTHENTICATED");
    for key in ["alk_nonsense".to_owned(), new_key()] {
        let limited = try_key(&key).await;
        limited.is_problem(429, "RATE_LIMITED");
        assert!(limited.header("retry-after").parse::<u32>().expect("seconds") <= 60);
    }

    assert_eq!(hub.get("/v1/operations").await.status, 200);
    assert_eq!(
        hub.metric(r#"alkhub_auth_failures_total{reason="unknown"}"#).await,
        Some(2.0)
    );
    assert_eq!(
        hub.metric(r#"alkhub_auth_failures_total{reason="malformed"}"#).await,
        Some(1.0)
    );
    assert_eq!(
        hub.metric(r#"alkhub_rate_limited_total{limit="bad_keys"}"#).await,
        Some(2.0)
    );
}

#[tokio::test]
async fn a_key_over_its_rate_gets_429_and_others_do_not() {
    const REQUESTS: usize = 40;
    let hub = hub_with(|config| config.server.requests_per_second_per_key = 1).await;
    let (key, _) = hub.key(&["operations:read"]).await;
    // So many that some are over the rate even when they take half a minute.
    let requests = (0..REQUESTS).map(|_| hub.as_key(&key, Method::GET, "/v1/operations").send());

    let answers = join_all(
        join_all(requests)
            .await
            .into_iter()
            .map(|answer| Answer::of(answer.expect("answered"))),
    )
    .await;

    let limited: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(limited.len() >= 4, "{} of {REQUESTS}", limited.len());
    limited[0].is_problem(429, "RATE_LIMITED");
    assert_eq!(limited[0].header("retry-after"), "1");
    assert_eq!(hub.get("/v1/operations").await.status, 200);
}

#[tokio::test]
async fn a_key_has_only_so_many_websockets() {
    let hub = hub_with(|config| config.server.max_connections_per_key = 2).await;
    let (key, _) = hub.key(&[]).await;
    let first = Wire::connect(&hub, &key).await;
    let _second = Wire::connect(&hub, &key).await;

    assert_eq!(Wire::refused(request(&hub, Some(&key))).await, 429);
    Wire::connect(&hub, &hub.admin).await;

    drop(first);
    until("a place is free", || async {
        match Wire::open(request(&hub, Some(&key))).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_hub_has_only_so_many_connections_upgraded_ones_too() {
    let hub = hub_with(|config| config.server.max_connections = 2).await;
    let _socket = Wire::connect(&hub, &hub.admin).await;
    let second = Wire::connect(&hub, &hub.admin).await;
    let address = hub.hub.url().replace("http://", "");

    let mut third = tokio::net::TcpStream::connect(&address).await.expect("connects");
    third
        .write_all(b"GET /v1/operations HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("written");
    let mut answer = String::new();
    third.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("urn:alkhub:problem:OVERLOADED"), "{answer}");

    drop(second);
    until("a connection is free", || async {
        let answer = hub
            .request(Method::GET, "/v1/operations")
            .send()
            .await
            .map_err(|e| e.to_string())?;
        if answer.status() == 200 {
            Ok(())
        } else {
            Err(answer.status().to_string())
        }
    })
    .await;
}
