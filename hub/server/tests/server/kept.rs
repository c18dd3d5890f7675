//! What HTTP requests make the hub keep: incoming bodies, and answers that nobody takes.

use std::time::Duration;

use alkhub_test_support::until;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{LIMIT, TestHub, hub_with, nothing_is_kept};
use crate::wire::{Wire, operation};

const MIB: usize = 1024 * 1024;

async fn connect(hub: &TestHub) -> TcpStream {
    let address = hub.hub.url().replace("http://", "");
    TcpStream::connect(address).await.expect("connects")
}

async fn refused(hub: &TestHub, kept: &str, least: f64) {
    let series = format!("alkhub_budget_refused_total{{budget=\"key\",kept=\"{kept}\"}}");
    until("what is over the budget is refused", || async {
        match hub.metric(&series).await {
            Some(refused) if refused >= least => Ok(()),
            refused => Err(format!("{refused:?}")),
        }
    })
    .await;
}

/// Waits until bodies of exactly this many bytes are kept.
async fn kept_are(hub: &TestHub, bytes: f64) {
    until("bodies of this size are kept", || async {
        match hub.metric(r#"alkhub_budget_bytes{kept="bodies"}"#).await {
            kept if kept == Some(bytes) => Ok(()),
            kept => Err(format!("{kept:?} of {bytes}")),
        }
    })
    .await;
}

/// An HTTP/2 client that lets only this many bytes of each answer through; its connection answers pings.
struct Narrow<'a> {
    hub: &'a TestHub,
    sender: SendRequest<Full<Bytes>>,
    connection: tokio::task::JoinHandle<hyper::Result<()>>,
}

// === impl Narrow ===

impl<'a> Narrow<'a> {
    async fn connect(hub: &'a TestHub, window: u32) -> Self {
        let socket = TokioIo::new(connect(hub).await);
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(socket)
            .await
            .expect("the preface is answered");
        Self {
            hub,
            sender,
            connection: tokio_util::task::TaskTracker::new().spawn(connection),
        }
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> http::Response<Incoming> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.hub.hub.url()))
            .header("authorization", format!("Bearer {}", self.hub.admin))
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("a request");
        let answered = timeout(LIMIT, self.sender.send_request(request)).await;
        answered.expect("in time").expect("answered")
    }
}

impl Drop for Narrow<'_> {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A spoke that answers each call with a text of this many bytes.
async fn large(hub: &TestHub, bytes: usize) -> tokio::task::JoinHandle<()> {
    let mut spoke = Wire::spoke(hub, &[operation("text", "large", "query")]).await;
    tokio_util::task::TaskTracker::new().spawn(async move {
        loop {
            let call = spoke.expect("call.requested").await;
            spoke.respond(&call, json!("x".repeat(bytes))).await;
        }
    })
}

#[tokio::test]
async fn bodies_are_charged_as_they_grow_and_refused_by_name_over_the_budget() {
    let hub = hub_with(|config| config.budget.key_bytes = 2 * MIB).await;
    let (key, _) = hub.key(&[]).await;
    let head = format!(
        "POST /v1/call/lab.echo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\ncontent-length: {MIB}\r\n\r\n"
    );
    let begun = [head.as_bytes(), &vec![b' '; MIB - 4]].concat();
    let mut sockets = Vec::new();
    for number in 0..6 {
        let mut socket = connect(&hub).await;
        socket.write_all(&begun).await.expect("read by the hub");
        sockets.push(socket);
        // Each waits for the result of the previous one: requests that grow at the same time may take room from each
        // other.
        if number < 2 {
            kept_are(&hub, f64::from(number + 1) * 1_048_576.0).await;
        } else {
            refused(&hub, "bodies", f64::from(number) - 1.0).await;
        }
    }

    kept_are(&hub, 2.0 * 1_048_576.0).await;
    let mut last = sockets.pop().expect("six of them");
    last.write_all(b"null").await.expect("read by the hub");
    let mut answer = String::new();
    let read = timeout(LIMIT, last.read_to_string(&mut answer)).await;
    read.expect("in time").expect("read");
    let answer = answer.to_ascii_lowercase();
    assert!(
        answer.starts_with("http/1.1 503") && answer.contains("retry-after: 1"),
        "{answer}"
    );
    assert!(
        answer.contains("overloaded") && answer.contains("budget.key-bytes"),
        "{answer}"
    );
    drop((last, sockets));
    nothing_is_kept(&hub, "bodies").await;
}

#[tokio::test]
async fn an_answer_over_http_2_of_which_nothing_is_taken_is_reset_and_its_connection_goes_on() {
    let hub = hub_with(|config| config.server.write_timeout = Duration::from_millis(500)).await;
    let spoke = large(&hub, 400_000).await;
    let mut client = Narrow::connect(&hub, 1_000).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(client.send("POST", "/v1/call/text.large", "\"x\"").await);
    }

    nothing_is_kept(&hub, "answers").await;

    for answer in held {
        assert_eq!(answer.status(), 200);
        let broken = timeout(LIMIT, answer.into_body().collect()).await.expect("in time");
        broken.expect_err("it was reset");
    }
    let again = client.send("GET", "/nowhere", "").await;
    assert_eq!(again.status(), 404, "the connection is as before");
    spoke.abort();
}

#[tokio::test]
async fn an_answer_over_http_2_is_given_whole_to_who_takes_it_slowly() {
    let hub = hub_with(|config| config.server.write_timeout = Duration::from_secs(2)).await;
    let spoke = large(&hub, 400_000).await;
    let mut client = Narrow::connect(&hub, 10_000).await;

    for _ in 0..2 {
        let answer = client.send("POST", "/v1/call/text.large", "\"x\"").await;
        let length = answer.headers()["content-length"].to_str().expect("text").to_owned();
        let body = timeout(LIMIT, answer.into_body().collect()).await.expect("in time");
        let body = body.expect("whole").to_bytes();
        assert_eq!(body.len().to_string(), length);
        assert!(body.len() > 400_000);
    }
    nothing_is_kept(&hub, "answers").await;
    spoke.abort();
}

#[tokio::test]
async fn answers_that_are_not_taken_are_charged_and_one_over_the_budget_says_that_the_call_was_made() {
    let hub = hub_with(|config| config.budget.key_bytes = MIB).await;
    let spoke = large(&hub, 400_000).await;
    let mut client = Narrow::connect(&hub, 16_000).await;
    let first = client.send("POST", "/v1/call/text.large", "\"x\"").await;
    let second = client.send("POST", "/v1/call/text.large", "\"x\"").await;

    let third = client.send("POST", "/v1/call/text.large", "\"x\"").await;

    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    assert_eq!(third.status(), 503);
    let problem = third.into_body().collect().await.expect("small").to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&problem).expect("JSON");
    assert_eq!(
        (&problem["code"], &problem["delivered"]),
        (&json!("OVERLOADED"), &json!("yes")),
        "{problem}"
    );
    assert!(problem.to_string().contains("budget.key-bytes"), "{problem}");
    let kept = hub.metric(r#"alkhub_budget_bytes{kept="answers"}"#).await;
    assert!(kept.is_some_and(|bytes| bytes > 800_000.0), "{kept:?}");
    drop((first, second, client));
    nothing_is_kept(&hub, "answers").await;
    spoke.abort();
}

#[tokio::test]
async fn a_stream_of_events_over_http_2_whose_reader_takes_nothing_ends() {
    let hub = hub_with(|config| config.server.write_timeout = Duration::from_millis(500)).await;
    let mut client = Narrow::connect(&hub, 0).await;

    let stream = client.send("GET", "/v1/events?topic=job:1", "").await;

    assert_eq!(stream.status(), 200);
    nothing_is_kept(&hub, "subscriptions").await;
    assert_eq!(hub.metric(r#"alkhub_connections{kind="sse"}"#).await, Some(0.0));
    drop(stream);
}

#[tokio::test]
async fn a_large_event_reaches_every_stream_whole() {
    let hub = hub_with(|_| {}).await;
    let text = "y".repeat(300_000);
    let mut client = Narrow::connect(&hub, 65_535).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(client.send("GET", "/v1/events?topic=job:1", "").await.into_body());
    }

    for payload in [json!(text), json!("last")] {
        let published = hub.post("/v1/events/job/1", &payload).await;
        assert_eq!(published.status, 202, "{published:?}");
    }

    for mut stream in streams {
        let mut said = String::new();
        while !said.contains("\"last\"") {
            let frame = timeout(LIMIT, stream.frame()).await.expect("in time");
            let data = frame.expect("goes on").expect("read").into_data().expect("data");
            said.push_str(std::str::from_utf8(&data).expect("text"));
        }
        let events: Vec<&str> = said.lines().filter(|line| line.starts_with("data: ")).collect();
        assert_eq!(events.len(), 2, "one line each");
        assert!(events[0].contains(&text), "whole");
        assert_eq!(said.lines().filter(|line| line.starts_with("id: ")).count(), 2);
    }
    nothing_is_kept(&hub, "answers").await;
}
