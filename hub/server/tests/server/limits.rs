//! Limits: bad keys, requests, connections.

use std::time::Duration;

use alkhub_config::ClientAddress;
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
        limited
            .is_problem(429, "RATE_LIMITED")
            .names("`server.bad-keys-per-minute`");
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
async fn a_good_key_that_was_never_used_gets_in_behind_an_address_with_too_many_bad_ones() {
    let hub = hub_with(|config| config.server.bad_keys_per_minute = 3).await;
    let (fresh, _) = hub.key(&["operations:read"]).await;
    for _ in 0..60 {
        let typo = hub.as_key("alk_nonsense", Method::GET, "/v1/operations");
        typo.send().await.expect("answered");
    }

    let answer = hub.as_key(&fresh, Method::GET, "/v1/operations").send().await;

    assert_eq!(answer.expect("answered").status(), 200);
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_bad_keys_of_its_own() {
    for (by, header, one, other) in [
        (
            ClientAddress::XForwardedFor,
            "x-forwarded-for",
            "192.0.2.1",
            "192.0.2.2",
        ),
        (
            ClientAddress::Forwarded,
            "forwarded",
            "for=192.0.2.1",
            "for=\"[2001:db8::2]:80\"",
        ),
    ] {
        let hub = hub_with(|config| {
            config.server.bad_keys_per_minute = 2;
            config.server.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
            config.server.client_address = by;
        })
        .await;
        let bad = async |client: &str| {
            let request = hub.as_key("alk_nonsense", Method::GET, "/v1/operations");
            let answer = request.header(header, client).send().await.expect("answered");
            answer.status().as_u16()
        };

        assert_eq!([bad(one).await, bad(one).await, bad(one).await], [401, 401, 429]);
        assert_eq!(bad(other).await, 401, "{header}");
    }
}

#[tokio::test]
async fn the_proxy_protocol_tells_the_client_and_is_asked_of_trusted_proxies() {
    let hub = hub_with(|config| {
        config.server.bad_keys_per_minute = 2;
        config.server.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
        config.server.client_address = ClientAddress::ProxyProtocol;
        config.server.header_timeout = Duration::from_secs(2);
    })
    .await;
    let address = hub.hub.url().replace("http://", "");
    let said = async |before: &[u8]| {
        let mut socket = tokio::net::TcpStream::connect(&address).await.expect("connects");
        let request =
            b"GET /v1/operations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer alk_x\r\nconnection: close\r\n\r\n";
        socket
            .write_all(&[before, &request[..]].concat())
            .await
            .expect("written");
        let mut answer = String::new();
        // An answer that was cut off counts as none.
        let _ = socket.read_to_string(&mut answer).await;
        answer.get(9..12).map(str::to_owned)
    };
    let one = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 7420\r\n";
    let other = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x02\x7f\0\0\x01\x12\x67\x1d\x0c";

    for expected in ["401", "401", "429"] {
        assert_eq!(said(one).await.as_deref(), Some(expected));
    }
    assert_eq!(said(other).await.as_deref(), Some("401"));
    assert_eq!(said(b"").await, None, "a connection without the header is closed");
}

#[tokio::test]
async fn a_key_over_its_rate_gets_429_and_others_do_not() {
    const REQUESTS: usize = 40;
    let hub = hub_with(|config| config.server.requests_per_second_per_key = 1).await;
    let (key, _) = hub.key(&["operations:read"]).await;
    // Enough for some to exceed the rate even if it takes half a minute to answer them all.
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
    limited[0]
        .is_problem(429, "RATE_LIMITED")
        .names("`server.requests-per-second-per-key`");
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
    assert!(answer.contains("`server.max-connections`"), "{answer}");
    assert_eq!(
        hub.metric(r#"alkhub_rate_limited_total{limit="connections"}"#).await,
        Some(1.0)
    );

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

/// A client that guesses keys uses up nothing that other clients behind the same address need.
#[tokio::test]
async fn good_keys_that_were_never_used_get_in_while_a_stranger_of_the_same_address_guesses() {
    const GUESSES: usize = 400;
    const GOOD: usize = 10;
    let hub = hub_with(|config| config.server.bad_keys_per_minute = 3).await;
    let mut good = Vec::new();
    for _ in 0..GOOD {
        good.push(hub.key(&["operations:read"]).await.0);
    }
    let try_key = async |key: String| {
        let asked = hub.as_key(&key, Method::GET, "/v1/operations").send().await;
        asked.expect("answered").status().as_u16()
    };
    join_all((0..4).map(|_| try_key(new_key()))).await;

    let guesses = join_all((0..GUESSES).map(|_| try_key(new_key())));
    let (guessed, admitted) = tokio::join!(guesses, join_all(good.into_iter().map(try_key)));

    assert_eq!(admitted, [200; GOOD]);
    assert_eq!(guessed, [429; GUESSES]);
}
