//! Traces over OTLP: alone in a process, because telemetry is set up only once per process.

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "server/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "server/wire.rs"]
mod wire;

use alkhub_config::TelemetryConfig;
use alkhub_server::telemetry;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use harness::{LIMIT, hub};
use wire::{Wire, operation};

const TRACE: [u8; 16] = [
    0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36,
];
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Answers requests until a body contains the trace's id; returns the head of that request.
async fn collect(collector: TcpListener) -> String {
    loop {
        let (mut socket, _) = collector.accept().await.expect("a connection");
        let mut request = Vec::new();
        let (head, length) = loop {
            request.push(socket.read_u8().await.expect("read"));
            if request.ends_with(b"\r\n\r\n") {
                let head = String::from_utf8(std::mem::take(&mut request))
                    .expect("UTF-8")
                    .to_lowercase();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                break (head, length.expect("a length"));
            }
        };
        let mut body: Vec<u8> = vec![0; length];
        socket.read_exact(&mut body).await.expect("read");
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await
            .expect("written");
        if body.windows(TRACE.len()).any(|window| window == TRACE) {
            return head;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_a_span_of_its_callers_trace_and_the_spoke_gets_it_as_parent() {
    let collector = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = collector.local_addr().expect("bound");
    let guard = telemetry::init(&TelemetryConfig {
        log_filter: "info".to_owned(),
        otlp_endpoint: Some(format!("http://{address}/v1/traces")),
        ..TelemetryConfig::default()
    })
    .expect("set up");
    let again = telemetry::init(&TelemetryConfig::default())
        .map(|_| ())
        .expect_err("once");
    assert!(again.to_string().contains("already"), "{again}");
    let hub = hub().await;
    let mut spoke = Wire::spoke(&hub, &[operation("text", "upper", "query")]).await;

    let call = hub
        .request(Method::POST, "/v1/call/text.upper")
        .header("traceparent", TRACEPARENT)
        .body("\"x\"");
    let (answer, ()) = tokio::join!(call.send(), async {
        let call = spoke.expect("call.requested").await;
        let given = call["payload"]["metadata"]["traceparent"]
            .as_str()
            .expect("a trace")
            .to_owned();
        assert!(
            given.starts_with(&TRACEPARENT[..36]) && given != TRACEPARENT,
            "a span of the hub's own: {given}"
        );
        spoke.respond(&call, json!("X")).await;
    });
    assert_eq!(answer.expect("answered").status(), 200);

    let flushed = tokio::task::spawn_blocking(move || drop(guard));
    let head = timeout(LIMIT, collect(collector)).await.expect("the trace is exported");
    flushed.await.expect("flushed");
    assert!(head.starts_with("post /v1/traces "), "{head}");
    assert!(head.contains("application/x-protobuf"), "{head}");
}
