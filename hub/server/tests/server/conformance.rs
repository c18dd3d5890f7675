//! The MUSTs of RFC 9110, 9112 and 6455 for a server, tested on real sockets; docs/HTTP.md names each test.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Answer, LIMIT, TestHub, hub, hub_with};
use crate::wire::{Wire, operation, request};

async fn connect(hub: &TestHub) -> TcpStream {
    let address = hub.hub.url().replace("http://", "");
    TcpStream::connect(address).await.expect("connects")
}

/// One answer as it is on the wire.
#[derive(Debug)]
struct Raw {
    status: u16,
    head: String,
    body: Vec<u8>,
}

// === impl Raw ===

impl Raw {
    async fn read(socket: &mut TcpStream) -> Self {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(LIMIT, socket.read_u8()).await.expect("an answer in time");
            head.push(byte.unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&head))));
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next());
        let length = length.map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        timeout(LIMIT, socket.read_exact(&mut body))
            .await
            .expect("in time")
            .expect("read");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        Self { status, head, body }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &str| line.split_once(": ").is_some_and(|(found, _)| found == name);
        let line = self.head.lines().find(|line| named(line))?;
        line.split_once(": ").map(|(_, value)| value)
    }

    /// Checks that it is a problem document.
    #[track_caller]
    fn is_problem(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem: Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["status"], status, "{problem}");
        assert!(self.header("x-request-id").is_some(), "{self:?}");
        assert_eq!(problem["instance"].as_str(), self.header("x-request-id"), "{problem}");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()),
            "{problem}"
        );
        self
    }
}

async fn said(hub: &TestHub, bytes: impl AsRef<[u8]>) -> Raw {
    let mut socket = connect(hub).await;
    socket.write_all(bytes.as_ref()).await.expect("written");
    Raw::read(&mut socket).await
}

#[tokio::test]
async fn a_request_needs_one_right_host() {
    let hub = hub().await;
    let with = |hosts: &str| format!("GET /v1/openapi.json HTTP/1.1\r\n{hosts}\r\n");

    for wrong in [
        "",
        "host: a\r\nhost: a\r\n",
        "host: a b\r\n",
        "host: u@a\r\n",
        "host: a/b\r\n",
    ] {
        said(&hub, with(wrong)).await.is_problem(400);
    }
    for right in ["host: a\r\n", "host:\r\n", "host: [::1]:80\r\n"] {
        assert_eq!(said(&hub, with(right)).await.status, 200, "{right}");
    }
    let old = said(&hub, "GET /v1/openapi.json HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.status, 200, "{:?}", old.head);
}

#[tokio::test]
async fn a_target_may_be_absolute_and_every_answer_has_a_date() {
    let hub = hub().await;

    let answer = said(
        &hub,
        "GET http://example.org/v1/openapi.json HTTP/1.1\r\nhost: example.org\r\n\r\n",
    )
    .await;

    assert_eq!(answer.status, 200);
    assert!(answer.header("date").is_some(), "{:?}", answer.head);
    let refused = said(&hub, "GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(refused.header("date").is_some(), "{:?}", refused.head);
}

#[tokio::test]
async fn head_is_answered_as_get_without_a_body() {
    let hub = hub().await;
    let mut socket = connect(&hub).await;
    let get = b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    socket
        .write_all(&[&b"HEAD /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"[..], get].concat())
        .await
        .expect("written");

    let mut all = Vec::new();
    timeout(LIMIT, socket.read_to_end(&mut all))
        .await
        .expect("closed in time")
        .expect("read");
    let text = String::from_utf8_lossy(&all);
    let (first, second) = text.split_once("\r\n\r\n").expect("a head");

    assert!(second.starts_with("HTTP/1.1 200 "), "no body follows: {first}");
    let length = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("content-length"))
            .map(str::to_owned)
    };
    assert_eq!(length(first), length(second));
}

#[tokio::test]
async fn what_the_parser_refuses_is_a_problem_document_too() {
    let hub = hub().await;
    let long = "x".repeat(17 * 1024);

    said(&hub, "NO HTTP\r\n\r\n").await.is_problem(400);
    said(&hub, "GET / HTTP/1.1\r\nhost : x\r\n\r\n").await.is_problem(400);
    said(&hub, "GET / HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n")
        .await
        .is_problem(400);
    let header = said(&hub, format!("GET / HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n")).await;
    header.is_problem(431);
    assert_eq!(header.header("connection"), Some("close"));
    said(&hub, format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"))
        .await
        .is_problem(414);

    let mut socket = connect(&hub).await;
    let first = b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\nNO HTTP\r\n\r\n";
    socket.write_all(first).await.expect("written");
    Raw::read(&mut socket).await.is_problem(404);
    Raw::read(&mut socket).await.is_problem(400);
    assert_eq!(socket.read(&mut [0; 1]).await.expect("closed"), 0);
}

#[tokio::test]
async fn lengths_that_contradict_each_other_are_refused_or_end_the_connection() {
    let hub = hub().await;
    let post = |headers: &str, body: &str| {
        format!(
            "POST /v1/events/a/1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{headers}\r\n{body}",
            hub.admin
        )
    };

    for wrong in [
        "content-length: 1\r\ncontent-length: 2\r\n",
        "content-length: x\r\n",
        "content-length: -1\r\n",
        "transfer-encoding: gzip\r\n",
    ] {
        said(&hub, post(wrong, "1")).await.is_problem(400);
    }
    // The parser accepts whatever ends with `chunked`.
    for wrong in [
        "gzip, chunked",
        "chunked, chunked",
        "gzip\r\ntransfer-encoding: chunked",
    ] {
        let coded = post(&format!("transfer-encoding: {wrong}\r\n"), "1\r\n1\r\n0\r\n\r\n");
        let refused = said(&hub, coded).await;
        refused.is_problem(400);
        assert_eq!(refused.header("connection"), Some("close"), "{refused:?}");
        assert!(
            String::from_utf8_lossy(&refused.body).contains("`Transfer-Encoding`"),
            "{refused:?}"
        );
    }
    let (length, coding) = ("content-length: 3\r\n", "transfer-encoding: chunked\r\n");
    for both in [format!("{length}{coding}"), format!("{coding}{length}")] {
        let both = said(&hub, post(&both, "1\r\n1\r\n0\r\n\r\n")).await;
        assert_eq!(
            (both.status, both.header("connection")),
            (202, Some("close")),
            "{both:?}"
        );
    }
    for coding in ["chunked", "Chunked", " chunked "] {
        let coded = post(&format!("transfer-encoding: {coding}\r\n"), "1\r\n1\r\n0\r\n\r\n");
        let chunked = said(&hub, coded).await;
        assert_eq!(
            (chunked.status, chunked.header("connection")),
            (202, None),
            "{chunked:?}"
        );
    }
}

#[tokio::test]
async fn who_asks_before_it_sends_is_answered_before_it_does() {
    let hub = hub().await;
    let post = |length: usize, expect: &str| {
        format!(
            "POST /v1/events/a/1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {length}\r\n\
             expect: {expect}\r\n\r\n",
            hub.admin
        )
    };

    let large = said(&hub, post(2 * 1024 * 1024, "100-continue")).await;
    large.is_problem(413);
    said(&hub, post(1, "something")).await.is_problem(417);
    let nobody = "POST /v1/events/a/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n";
    said(&hub, nobody).await.is_problem(401);

    let mut socket = connect(&hub).await;
    socket
        .write_all(post(1, "100-continue").as_bytes())
        .await
        .expect("written");
    assert_eq!(Raw::read(&mut socket).await.status, 100);
    socket.write_all(b"1").await.expect("written");
    assert_eq!(Raw::read(&mut socket).await.status, 202);
}

#[tokio::test]
async fn an_encoded_body_is_refused_by_name() {
    let hub = hub().await;
    let request = hub
        .request(Method::POST, "/v1/events/a/1")
        .header("content-encoding", "gzip");

    let answer = Answer::of(request.body("1").send().await.expect("answered")).await;

    answer.is_problem(415, "BAD_REQUEST").names("Content-Encoding");
}

#[tokio::test]
async fn a_header_that_holds_one_value_is_refused_by_name_when_it_is_there_twice() {
    let hub = hub().await;
    let get = |headers: String| format!("GET /v1/operations HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let key = format!("authorization: Bearer {}\r\n", hub.admin);

    for (name, value) in [
        ("Authorization", "Bearer x"),
        ("Alkhub-Timeout", "5s"),
        ("Alkhub-Metadata", "{}"),
        ("Alkhub-Parent-Request-Id", "r1"),
        ("Last-Event-ID", "x-1"),
        ("Origin", "https://app.example"),
    ] {
        let header = format!("{}: {value}\r\n", name.to_ascii_lowercase());
        let first = if name == "Authorization" { &key } else { &header };
        let refused = said(&hub, get(format!("{key}{first}{header}"))).await;
        refused.is_problem(400);
        let problem: Value = serde_json::from_slice(&refused.body).expect("JSON");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(
            detail.contains(&format!("`{name}`")) && detail.contains("once"),
            "{detail}"
        );
    }
    // A field that occurs twice counts as absent.
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let twice = format!("{key}{trace}{trace}x-request-id: a\r\nx-request-id: b\r\n");
    let answer = said(&hub, get(twice)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-request-id").map(str::len), Some(36), "{answer:?}");
}

#[tokio::test]
async fn what_a_key_sees_is_not_stored_and_the_document_is_asked_for_by_its_tag() {
    let hub = hub().await;

    assert_eq!(hub.get("/v1/operations").await.header("cache-control"), "no-store");
    assert_eq!(hub.get("/nowhere").await.header("cache-control"), "no-store");
    let stream = hub
        .request(Method::GET, "/v1/events?topic=a:1")
        .send()
        .await
        .expect("answered");
    assert_eq!(stream.headers()["cache-control"], "no-store");
    let document = hub.get("/v1/openapi.json").await;
    let tag = document.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    for (known, status) in [
        (tag.clone(), 304),
        (format!("\"x\", W/{tag}"), 304),
        ("\"x\"".to_owned(), 200),
    ] {
        let request = hub
            .request(Method::GET, "/v1/openapi.json")
            .header("if-none-match", &known);
        let answer = Answer::of(request.send().await.expect("answered")).await;
        assert_eq!(
            (answer.status, answer.header("etag")),
            (status, tag.as_str()),
            "{known}"
        );
        assert_eq!(answer.text.is_empty(), status == 304);
    }
}

fn handshake(hub: &TestHub, version: &str, change: &[(&str, &str)]) -> String {
    let bearer = format!("Bearer {}", hub.admin);
    let mut headers = vec![
        ("host", "hub.example:7420"),
        ("authorization", bearer.as_str()),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (name, value) in change {
        headers.retain(|(kept, _)| kept != name);
        headers.extend(
            value
                .split('|')
                .filter(|value| !value.is_empty())
                .map(|value| (*name, value)),
        );
    }
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!("GET /v1/ws HTTP/{version}\r\n{lines}\r\n")
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused_with_what_is_needed() {
    let hub = hub().await;

    assert_eq!(said(&hub, handshake(&hub, "1.1", &[])).await.status, 101);
    for (version, change) in [
        ("1.0", ("host", "x")),
        ("1.1", ("upgrade", "")),
        ("1.1", ("connection", "keep-alive")),
        ("1.1", ("sec-websocket-version", "8")),
        ("1.1", ("sec-websocket-version", "")),
        ("1.1", ("sec-websocket-version", "13|13")),
    ] {
        let answer = said(&hub, handshake(&hub, version, &[change])).await;
        answer.is_problem(426);
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{change:?}");
        assert_eq!(answer.header("connection"), Some("upgrade"), "{change:?}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{change:?}");
    }
    for key in ["", "short", "dGhlIHNhbXBsZSBub25jZQ==|dGhlIHNhbXBsZSBub25jZQ=="] {
        said(&hub, handshake(&hub, "1.1", &[("sec-websocket-key", key)]))
            .await
            .is_problem(400);
    }
}

#[tokio::test]
async fn a_page_of_another_origin_gets_no_websocket() {
    let hub = hub_with(|config| {
        config.server.cors_origins = vec!["https://app.example".parse().expect("an origin")];
    })
    .await;
    let with = |origin: &str| handshake(&hub, "1.1", &[("origin", origin)]);

    for allowed in ["https://app.example", "http://hub.example:7420", ""] {
        assert_eq!(said(&hub, with(allowed)).await.status, 101, "{allowed}");
    }
    for refused in [
        "https://evil.example",
        "https://app.example:8443",
        "http://app.example",
        "null",
    ] {
        said(&hub, with(refused)).await.is_problem(403);
    }
    let any = hub_with(|config| config.server.cors_origins = vec!["*".parse().expect("any")]).await;
    assert_eq!(
        said(&any, handshake(&any, "1.1", &[("origin", "https://x.example")]))
            .await
            .status,
        101
    );
}

/// A client that speaks HTTP/2 from the first byte.
async fn http2(hub: &TestHub, method: &str, path: &str, body: &str) -> Answer {
    let socket = TokioIo::new(connect(hub).await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket)
        .await
        .expect("the preface is answered");
    let served = async {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", hub.hub.url()))
            .header("authorization", format!("Bearer {}", hub.admin))
            .body(http_body_util::Full::new(bytes::Bytes::from(body.to_owned())))
            .expect("a request");
        let response = sender.send_request(request).await.expect("answered");
        assert_eq!(response.version(), http::Version::HTTP_2);
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("read").to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    };
    tokio::select! {
        answer = timeout(LIMIT, served) => answer.expect("in time"),
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[tokio::test]
async fn http_2_is_served_and_a_websocket_over_it_is_refused_by_name() {
    let hub = hub().await;
    let mut spoke = Wire::spoke(&hub, &[operation("text", "upper", "query")]).await;

    let (answer, ()) = tokio::join!(http2(&hub, "POST", "/v1/call/text.upper", "\"x\""), async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("X")).await;
    });

    assert_eq!((answer.status, &answer.body["data"]), (200, &json!("X")), "{answer:?}");
    http2(&hub, "GET", "/nowhere", "").await.is_problem(404, "NOT_FOUND");
    http2(&hub, "GET", "/v1/ws", "")
        .await
        .is_problem(501, "UNSUPPORTED")
        .names("HTTP/1.1");
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_its_place() {
    let hub = hub_with(|config| {
        config.server.max_connections = 3;
        config.server.write_timeout = Duration::from_millis(300);
    })
    .await;
    let mut greedy = Vec::new();
    for _ in 0..3 {
        let mut socket = connect(&hub).await;
        let request = b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(400);
        // Whatever does not fit into the buffers of both ends is not waited for.
        let _ = timeout(Duration::from_millis(200), socket.write_all(&request)).await;
        greedy.push(socket);
    }

    alkhub_test_support::until("a place is free", || async {
        let answer = hub.request(Method::GET, "/v1/operations").send().await;
        match answer {
            Ok(answer) if answer.status() == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    drop(greedy);
}

#[tokio::test]
async fn an_address_has_only_so_many_connections_and_a_trusted_proxy_more() {
    let few = |config: &mut alkhub_config::HubConfig| config.server.max_connections_per_address = 2;
    let hub = hub_with(few).await;
    let _held = [
        Wire::connect(&hub, &hub.admin).await,
        Wire::connect(&hub, &hub.admin).await,
    ];
    let get = "GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";

    let third = said(&hub, get).await;

    third.is_problem(429);
    assert!(third.head.contains("retry-after"), "{third:?}");
    assert!(
        String::from_utf8_lossy(&third.body).contains("`server.max-connections-per-address`"),
        "{third:?}"
    );
    let refused = async |limit: &str| {
        let series = format!(r#"alkhub_rate_limited_total{{limit="{limit}"}}"#);
        hub.metric(&series).await
    };
    assert_eq!(refused("connections_per_address").await, Some(1.0));
    assert_eq!(refused("connections").await, Some(0.0));
    let proxied = hub_with(|config| {
        few(config);
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(
            Wire::open(request(&proxied, Some(&proxied.admin)))
                .await
                .expect("connects"),
        );
    }
    assert_eq!(said(&proxied, get).await.status, 200);
}
