//! Streams of server-sent events whose hub drains: they end properly, and their clients continue at another hub.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_test_support::{RedisServer, within};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::{knows_upper, pair_with};
use crate::harness::{LIMIT, TestHub, hub};
use crate::wire::{Dialect, Wire, operation};

/// The size of every third event: large events are shared by everybody who reads them, and written in pieces.
const LARGE_BYTES: usize = 20_000;

/// How many events, and of what size, are sent to a reader that does not read: more than the kernel keeps for it, but
/// no more than the hub does.
const UNREAD_EVENTS: usize = 40;
const UNREAD_BYTES: usize = 100_000;

/// What the kernel keeps for that reader.
const NARROW_BYTES: u32 = 4096;

/// How long a spoke waits for a message between two items.
const PACE: Duration = Duration::from_millis(2);

/// One event of a stream.
#[derive(Debug)]
struct Event {
    id: Option<String>,
    name: Option<String>,
    data: Value,
}

/// A stream, and what has arrived of it.
struct Stream {
    pieces: BoxStream<'static, reqwest::Result<Bytes>>,
    text: String,
}

// === impl Event ===

impl Event {
    /// Parses a whole event.
    fn of(text: &str) -> Self {
        let (mut id, mut name, mut data) = (None, None, String::new());
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("event", value)) => name = Some(value.to_owned()),
                Some(("data", value)) => data.push_str(value),
                _ => panic!("`{line}` is no field of an event: {text}"),
            }
        }
        let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: not whole: {text}"));
        Self { id, name, data }
    }

    /// The number that was published in it.
    fn number(&self) -> u64 {
        let number = self.data["payload"]["n"].as_u64();
        number.unwrap_or_else(|| panic!("no event of the test's: {self:?}"))
    }
}

// === impl Stream ===

impl Stream {
    async fn open(request: RequestBuilder) -> Self {
        let response = within("the header of the answer", request.send())
            .await
            .expect("answered");
        assert_eq!(response.status(), 200);
        Self {
            pieces: response.bytes_stream().boxed(),
            text: String::new(),
        }
    }

    /// Reads on until this many events have arrived; returns all of them.
    async fn has(&mut self, count: usize) -> Vec<Event> {
        loop {
            let whole = self.text.rfind("\n\n").map_or(0, |end| end + 2);
            let come = events(&self.text[..whole]);
            if come.len() >= count {
                return come;
            }
            assert!(self.read().await, "no more than {come:?}");
        }
    }

    /// Reads to its end, which must be a proper one and not a cut.
    async fn ends(mut self) -> Vec<Event> {
        while self.read().await {}
        events(&self.text)
    }

    /// Reads the next piece; returns whether there was one.
    async fn read(&mut self) -> bool {
        let Some(piece) = within("more of the stream, or its end", self.pieces.next()).await else {
            return false;
        };
        let piece = piece.expect("it is not cut");
        self.text.push_str(std::str::from_utf8(&piece).expect("ASCII"));
        true
    }
}

/// The events in a text that otherwise contains only comments and `retry`, and that ends with a whole block.
fn events(text: &str) -> Vec<Event> {
    assert!(text.is_empty() || text.ends_with("\n\n"), "the last event is not whole");
    let blocks = text.split_terminator("\n\n");
    let events = blocks.filter(|block| !block.starts_with(':') && !block.starts_with("retry: "));
    events.map(Event::of).collect()
}

/// Two hubs without limits on the rate of requests.
async fn hubs(redis: &RedisServer, drain_timeout: Duration) -> (TestHub, TestHub) {
    let change = |()| {
        let url = redis.url();
        move |config: &mut HubConfig| {
            config.events.redis_url = Some(url.into());
            config.server.drain_timeout = drain_timeout;
            config.server.requests_per_second_per_key = 1_000_000;
        }
    };
    pair_with([(); 2].map(change)).await
}

fn follow(hub: &TestHub) -> RequestBuilder {
    hub.request(Method::GET, "/v1/events?topic=a:1&topic=b:1")
}

async fn publish(hub: &TestHub, payload: &Value) {
    let published = hub.post("/v1/events/a/1", payload).await;
    assert_eq!(published.status, 202, "{published:?}");
}

/// Publishes numbered events until a stream has ended.
async fn publish_until(over: &CancellationToken, hub: &TestHub) {
    for number in 0_u64.. {
        if over.is_cancelled() {
            return;
        }
        let bytes = if number % 3 == 0 { LARGE_BYTES } else { 0 };
        publish(hub, &json!({ "n": number, "more": "x".repeat(bytes) })).await;
    }
}

/// Checks that no number is missing, from the first one on; returns how many there are.
#[track_caller]
fn are_in_order(numbers: impl Iterator<Item = u64>) -> u64 {
    let numbers: Vec<u64> = numbers.collect();
    let wanted: Vec<u64> = (0..).take(numbers.len()).collect();
    assert_eq!(numbers, wanted);
    wanted.len().try_into().expect("fits")
}

#[tokio::test]
async fn a_stream_of_events_ends_behind_a_whole_one_when_its_hub_drains_and_a_return_elsewhere_begins_with_gaps() {
    let redis = RedisServer::start().await;
    let (one, two) = hubs(&redis, LIMIT).await;
    let mut stream = Stream::open(follow(&one)).await;
    let over = CancellationToken::new();

    let reading = async {
        stream.has(20).await;
        let (ended, events) = tokio::join!(timeout(LIMIT, one.hub.shutdown()), async {
            let events = stream.ends().await;
            over.cancel();
            events
        });
        ended.expect("ends in time");
        events
    };
    let (events, ()) = tokio::join!(reading, publish_until(&over, &two));

    are_in_order(events.iter().map(Event::number));
    let last = events.last().and_then(|event| event.id.clone());
    let last = last.expect("the last event has an id");
    let returns = [
        follow(&two).header("last-event-id", &last),
        two.request(
            Method::GET,
            &format!("/v1/events?topic=a:1&topic=b:1&lastEventId={last}"),
        ),
    ];
    for request in returns {
        let mut again = Stream::open(request).await;
        let gaps = again.has(2).await;
        publish(&two, &json!({ "n": 0 })).await;
        let events = again.has(3).await;

        for (gap, topic) in gaps.iter().zip(["a:1", "b:1"]) {
            let told = (gap.name.as_deref(), gap.id.as_deref(), &gap.data);
            let wanted = json!({ "topic": topic, "reason": "resume_unavailable" });
            assert_eq!(told, (Some("gap"), None, &wanted));
        }
        assert_eq!(
            (events.len(), events[2].number()),
            (3, 0),
            "nothing of before comes again"
        );
        let id = events[2].id.as_deref().expect("an id");
        assert!(events.iter().all(|event| event.id.as_ref() != Some(&last)), "{id}");
    }
}

#[tokio::test]
async fn a_stream_whose_reader_is_behind_ends_behind_a_whole_event_when_its_hub_drains() {
    let hub = hub().await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(NARROW_BYTES).expect("set");
    let address = hub.hub.url().replace("http://", "").parse().expect("an address");
    let mut reader = socket.connect(address).await.expect("connects");
    let request = format!(
        "GET /v1/events?topic=a:1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        hub.admin
    );
    reader.write_all(request.as_bytes()).await.expect("written");
    // The header arrives once the subscription is there.
    let mut said = vec![reader.read_u8().await.expect("read")];
    let mut idle = Wire::connect(&hub, &hub.admin).await;
    for number in 0..UNREAD_EVENTS {
        publish(&hub, &json!({ "n": number, "more": "x".repeat(UNREAD_BYTES) })).await;
    }

    let (ended, ()) = tokio::join!(timeout(LIMIT, hub.hub.shutdown()), async {
        assert_eq!(idle.closed().await.0, 1001);
        let rest = within("the hub closes", reader.read_to_end(&mut said)).await;
        rest.expect("it is not cut");
    });

    ended.expect("ends in time");
    let said = String::from_utf8(said).expect("ASCII");
    let (head, body) = said.split_once("\r\n\r\n").expect("a header");
    assert!(
        head.to_ascii_lowercase().contains("transfer-encoding: chunked"),
        "{head}"
    );
    let events = events(&joined(body));
    let count = are_in_order(events.iter().map(Event::number));
    assert!(count > 0, "nothing was on its way");
    assert!(events.iter().all(|event| event.id.is_some()));
}

/// The contents of the chunks of a body, which must be complete.
fn joined(mut body: &str) -> String {
    let mut text = String::new();
    loop {
        let (size, rest) = body
            .split_once("\r\n")
            .expect("the size of a chunk: the body is not whole");
        let size = usize::from_str_radix(size, 16).expect("hex digits");
        assert!(rest.len() >= size + 2, "the last chunk is not whole");
        if size == 0 {
            return text;
        }
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
}

/// A subscription through one hub to a spoke on the other one: the spoke, its call, and the stream.
async fn followed(one: &TestHub, two: &TestHub) -> (Wire, Value, Stream) {
    let (key, _) = one.spoke_key("text").await;
    let mut spoke = Wire::connect(two, &key).await;
    let operation = operation("text", "upper", "subscription");
    spoke.register(Dialect::Origin, &[operation]).await;
    knows_upper(one).await;
    let (stream, call) = asked(one, &mut spoke).await;
    (spoke, call, stream)
}

async fn asked(hub: &TestHub, spoke: &mut Wire) -> (Stream, Value) {
    let request = hub.request(Method::POST, "/v1/call/text.upper").body("\"x\"");
    tokio::join!(Stream::open(request), spoke.expect("call.requested"))
}

/// The numbers in the items.
fn numbers(items: &[Event]) -> impl Iterator<Item = u64> {
    items.iter().map(|item| {
        assert_eq!(item.name.as_deref(), Some("next"), "{item:?}");
        let number = item.data["data"].as_str().and_then(|text| text.parse().ok());
        number.unwrap_or_else(|| panic!("no item of the test's: {item:?}"))
    })
}

#[tokio::test]
async fn a_subscription_over_sse_goes_on_while_its_hub_drains_and_ends_as_its_spoke_says() {
    let redis = RedisServer::start().await;
    let (one, two) = hubs(&redis, LIMIT).await;
    let (mut spoke, call, stream) = followed(&one, &two).await;
    let mut idle = Wire::connect(&one, &one.admin).await;

    let (ended, events) = tokio::join!(timeout(LIMIT, one.hub.shutdown()), async {
        // The drain has begun.
        assert_eq!(idle.closed().await.0, 1001);
        for number in 0..100 {
            spoke.respond(&call, json!(number.to_string())).await;
        }
        spoke.say("call.completed", &call, json!({})).await;
        stream.ends().await
    });

    ended.expect("ends in time");
    let (end, items) = events.split_last().expect("an end");
    assert_eq!((end.name.as_deref(), &end.data), (Some("complete"), &json!({})));
    assert_eq!(are_in_order(numbers(items)), 100);
}

#[tokio::test]
async fn a_subscription_over_sse_that_outlasts_the_drain_ends_by_name_behind_its_last_item_and_is_made_anew_elsewhere()
{
    let redis = RedisServer::start().await;
    let (one, two) = hubs(&redis, Duration::from_millis(300)).await;
    let (mut spoke, call, stream) = followed(&one, &two).await;

    let giving = async {
        // The spoke continues until it is told to stop.
        for number in 0_u64.. {
            spoke.respond(&call, json!(number.to_string())).await;
            if let Ok(told) = timeout(PACE, spoke.expect("call.aborted")).await {
                return (number + 1, told);
            }
        }
        unreachable!("it is told before");
    };
    let (ended, events, (sent, told)) = tokio::join!(timeout(LIMIT, one.hub.shutdown()), stream.ends(), giving);

    ended.expect("ends in time");
    assert_eq!(told["payload"]["requestId"], call["payload"]["requestId"]);
    let (end, items) = events.split_last().expect("an end");
    let count = are_in_order(numbers(items));
    assert!(0 < count && count <= sent, "{count} of {sent}");
    assert_eq!(end.name.as_deref(), Some("error"), "{end:?}");
    let problem = (&end.data["status"], &end.data["code"], &end.data["delivered"]);
    assert_eq!(
        problem,
        (&json!(503), &json!("UNAVAILABLE"), &json!("maybe")),
        "{end:?}"
    );
    let (mut again, anew) = asked(&two, &mut spoke).await;
    assert_ne!(anew["payload"]["requestId"], call["payload"]["requestId"]);
    spoke.respond(&anew, json!("0")).await;
    assert_eq!(are_in_order(numbers(&again.has(1).await)), 1);
}
