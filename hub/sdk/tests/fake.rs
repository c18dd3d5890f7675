//! The SDK against a hub that the test plays by hand: what happens when connections break, hubs refuse and readers
//! leave. How it works with a real hub is tested in `tests/it` and in `hub/cli/tests`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_sdk::protocol::call::{Identity, Metadata};
use alkhub_sdk::protocol::frame::encode;
use alkhub_sdk::protocol::{CallError, Code, Dialect, Frame, RawJson};
use alkhub_sdk::{CallOptions, Client, Context, Delivered, Delivery, Error, Failure, Operation, Spoke, Status};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// A hub that does nothing by itself.
struct Hub {
    listener: TcpListener,
    url: String,
}

/// One connection of it.
struct Peer(WebSocketStream<TcpStream>);

impl Hub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        Self { listener, url }
    }

    async fn accept(&self) -> Peer {
        let (stream, _) = timeout(SOON, self.listener.accept())
            .await
            .expect("a connection")
            .expect("accepted");
        Peer(tokio_tungstenite::accept_async(stream).await.expect("upgraded"))
    }

    /// Answers the next connection with a bare HTTP status.
    async fn refuse(&self, status: &str) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = timeout(SOON, self.listener.accept())
            .await
            .expect("a connection")
            .expect("accepted");
        let mut request = [0_u8; 4096];
        let _read = stream.read(&mut request).await.expect("a request");
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.expect("written");
    }

    fn client(&self) -> Client {
        Client::builder(&self.url)
            .token("alk_test")
            .timeout(SOON)
            .build()
            .expect("valid settings")
    }

    fn spoke(&self) -> alkhub_sdk::spoke::Builder {
        Spoke::builder(&self.url).token("alk_test").name("text")
    }
}

impl Peer {
    async fn frame(&mut self) -> Frame {
        loop {
            let message = timeout(SOON, self.0.next())
                .await
                .expect("a frame in time")
                .expect("open")
                .expect("read");
            if let Message::Text(text) = message {
                return Frame::decode(&Bytes::from(text)).expect("a frame").0;
            }
        }
    }

    async fn send(&mut self, frame: Bytes) {
        let text = String::from_utf8(frame.into()).expect("UTF-8");
        self.0.send(Message::text(text)).await.expect("sent");
    }

    /// Reads `__subscribe` and confirms it.
    async fn confirm(&mut self) -> String {
        let Frame::Subscribe(filter) = self.frame().await else {
            panic!("expected __subscribe")
        };
        self.send(encode::topic_control("__subscribed", &filter)).await;
        filter.to_string()
    }

    /// Reads `hub.register` and answers with these results.
    async fn register(&mut self, operations: serde_json::Value) {
        let Frame::Requested(call) = self.frame().await else {
            panic!("expected hub.register")
        };
        assert_eq!(call.operation.as_str(), "hub.register");
        let data = serde_json::json!({
            "spokeId": "text", "instanceId": "i", "generation": 1, "hubId": "h", "heartbeatMs": 10_000,
            "operations": operations,
        });
        let output = RawJson::from(serde_json::json!({ "data": data, "meta": {} }));
        self.send(encode::call_responded(Dialect::Id, call.request_id.as_str(), &output))
            .await;
    }

    async fn call(&mut self, id: &str, operation: &str, input: &str) {
        let operation = operation.parse().expect("valid");
        let input = RawJson::parse(input.to_owned()).expect("JSON");
        self.send(encode::call_requested(
            Dialect::Id,
            id,
            &operation,
            Some(&input),
            &encode::RequestOptions::default(),
        ))
        .await;
    }

    async fn respond(&mut self, id: &str, data: &str) {
        let output = RawJson::parse(format!("{{\"data\":{data},\"meta\":{{}}}}")).expect("JSON");
        self.send(encode::call_responded(Dialect::Payload, id, &output)).await;
    }
}

async fn upper(text: String) -> Result<String, Failure> {
    Ok(text.to_uppercase())
}

#[tokio::test]
async fn a_call_is_answered_in_either_dialect() {
    let hub = Hub::start().await;
    let client = hub.client();
    let call = client.call::<_, String>("text.upper", "hello");

    let played = async {
        let mut peer = hub.accept().await;
        let Frame::Requested(call) = peer.frame().await else {
            panic!("expected a call")
        };
        assert_eq!(
            (call.operation.as_str(), call.input.as_ref().map(RawJson::as_str)),
            ("text.upper", Some("\"hello\""))
        );
        assert!(call.timeout_ms.is_some_and(|ms| ms > 0), "the deadline travels");
        peer.respond(call.request_id.as_str(), "\"HELLO\"").await;
        peer
    };
    let (answer, _peer) = tokio::join!(call, played);

    assert_eq!(answer.expect("answered"), "HELLO");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_fails_its_call_and_no_other() {
    let hub = Hub::start().await;
    let client = hub.client();
    let calls = async {
        tokio::join!(
            client.call::<_, String>("a.large", &1),
            client.call::<_, String>("a.small", &2)
        )
    };

    let played = async {
        let mut peer = hub.accept().await;
        for _ in 0..2 {
            let Frame::Requested(call) = peer.frame().await else {
                panic!("expected a call")
            };
            let size = if call.operation.as_str() == "a.large" {
                2 << 20
            } else {
                1
            };
            peer.respond(call.request_id.as_str(), &format!("\"{}\"", "x".repeat(size)))
                .await;
        }
        peer
    };
    let ((large, small), _peer) = tokio::join!(calls, played);

    let error = large.expect_err("too large");
    assert!(
        matches!(&error, Error::Call(call) if call.code == Code::PayloadTooLarge),
        "{error}"
    );
    assert_eq!(small.expect("answered"), "x");
}

#[tokio::test]
async fn a_dropped_call_is_aborted_at_the_hub() {
    let hub = Hub::start().await;
    let client = hub.client();
    let mut call = Box::pin(client.call::<_, String>("text.upper", "hello"));

    let mut peer = tokio::select! { peer = hub.accept() => peer, _ = &mut call => panic!("answered by nobody") };
    let request = tokio::select! { frame = peer.frame() => frame, _ = &mut call => panic!("answered by nobody") };
    drop(call);

    let Frame::Requested(request) = request else {
        panic!("expected a call")
    };
    let Frame::Aborted { request_id } = peer.frame().await else {
        panic!("expected an abort")
    };
    assert_eq!(request_id, request.request_id);
}

#[tokio::test]
async fn a_deadline_ends_the_call_on_both_sides() {
    let hub = Hub::start().await;
    let client = hub.client();
    let options = alkhub_sdk::CallOptions {
        // The call must reach the hub first: connection, upgrade and frame.
        timeout: Some(Duration::from_secs(1)),
        ..alkhub_sdk::CallOptions::default()
    };
    let played = async {
        let mut peer = hub.accept().await;
        let first = peer.frame().await;
        (first, peer.frame().await)
    };

    let (answer, (first, second)) = tokio::join!(client.call_with::<_, String>("text.upper", "hello", options), played);

    assert!(matches!(answer, Err(Error::Timeout(_))), "{answer:?}");
    assert!(matches!(first, Frame::Requested(call) if call.timeout_ms.is_some_and(|ms| ms <= 1_000)));
    assert!(matches!(second, Frame::Aborted { .. }));
}

#[tokio::test]
async fn a_call_whose_connection_breaks_is_lost_and_not_sent_again() {
    let hub = Hub::start().await;
    let client = hub.client();
    let played = async {
        let mut peer = hub.accept().await;
        assert!(matches!(peer.frame().await, Frame::Requested(_)));
        drop(peer);
        hub.accept().await
    };

    let (answer, mut again) = tokio::join!(client.call::<_, String>("text.upper", "1"), played);
    let next = tokio::join!(client.call::<_, String>("text.upper", "2"), async {
        let Frame::Requested(call) = again.frame().await else {
            panic!("expected a call")
        };
        again.respond(call.request_id.as_str(), "\"2\"").await;
        call.input.expect("given")
    });

    let error = answer.expect_err("lost");
    assert!(matches!(error, Error::Lost), "{error}");
    assert_eq!(error.delivered(), Delivered::Maybe);
    assert_eq!((next.0.expect("answered"), next.1.as_str()), ("2".to_owned(), "\"2\""));
}

#[tokio::test]
async fn a_hub_that_is_away_at_first_is_an_error_at_once() {
    let hub = Hub::start().await;
    let client = hub.client();
    drop(hub);

    let error = client
        .call::<_, String>("text.upper", "hello")
        .await
        .expect_err("nobody listens");

    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!((error.delivered(), error.retryable()), (Delivered::No, true));
}

#[tokio::test]
async fn who_waited_in_vain_for_a_hub_that_left_is_told_that_it_cannot_be_reached() {
    let hub = Hub::start().await;
    let client = hub.client();
    let options = CallOptions {
        timeout: Some(Duration::from_millis(500)),
        ..CallOptions::default()
    };
    let call = client.call_with::<_, String>("text.upper", "hello", options.clone());
    let gone = async {
        drop(hub.accept().await);
        drop(hub);
    };
    let (lost, ()) = tokio::join!(call, gone);
    lost.expect_err("lost");

    let call = client.call_with::<_, String>("text.upper", "hello", options);
    let error = timeout(SOON, call)
        .await
        .expect("in time")
        .expect_err("nobody is there");

    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(error.delivered(), Delivered::No);
}

#[tokio::test]
async fn a_key_that_is_refused_is_told_with_its_status() {
    let hub = Hub::start().await;
    let client = hub.client();

    let (answer, ()) = tokio::join!(client.call::<_, String>("a.b", ""), hub.refuse("401 Unauthorized"));

    assert!(matches!(answer, Err(Error::Refused { status: 401, .. })), "{answer:?}");
}

#[tokio::test]
async fn subscriptions_are_made_again_after_a_reconnect_and_a_gap_says_so() {
    let hub = Hub::start().await;
    let client = hub.client();
    let (events, mut peer) = tokio::join!(client.events("job:1"), async {
        let mut peer = hub.accept().await;
        assert_eq!(peer.confirm().await, "job:1");
        peer
    });
    let mut events = events.expect("confirmed");
    let topic = "job:1".parse().expect("valid");
    peer.send(encode::event(&topic, Some(&RawJson::from(serde_json::json!(1)))))
        .await;
    let first = events.next().await;

    drop(peer);
    let mut peer = hub.accept().await;
    assert_eq!(peer.confirm().await, "job:1");
    peer.send(encode::event(&topic, None)).await;
    let (second, third) = (events.next().await, events.next().await);

    assert!(matches!(first, Some(Ok(Delivery::Event(event))) if event.payload::<u32>().expect("a number") == 1));
    assert!(matches!(second, Some(Ok(Delivery::Gap(gap))) if gap.reason == "reconnected"));
    assert!(matches!(third, Some(Ok(Delivery::Event(event))) if event.payload.is_none()));
    drop(events);
    assert!(matches!(peer.frame().await, Frame::Unsubscribe(filter) if filter.to_string() == "job:1"));
}

/// A hub that has no link to Redis refuses topics until it has one again.
#[tokio::test]
async fn a_stream_goes_on_when_its_topic_is_refused_after_a_reconnect_and_may_be_asked_again() {
    let hub = Hub::start().await;
    let client = hub.client();
    let (events, peer) = tokio::join!(client.events("job:1"), async {
        let mut peer = hub.accept().await;
        peer.confirm().await;
        peer
    });
    let mut events = events.expect("confirmed");

    drop(peer);
    let mut peer = hub.accept().await;
    for _ in 0..2 {
        assert!(matches!(peer.frame().await, Frame::Subscribe(_)));
        let away = CallError::new(Code::Unavailable, "Redis is not available").retryable();
        peer.send(encode::refused(&away, Some("job:1"))).await;
    }
    assert_eq!(peer.confirm().await, "job:1");
    let topic = "job:1".parse().expect("valid");
    peer.send(encode::event(&topic, None)).await;

    let (first, second) = (events.next().await, events.next().await);
    assert!(matches!(first, Some(Ok(Delivery::Gap(gap))) if gap.reason == "reconnected"));
    assert!(matches!(second, Some(Ok(Delivery::Event(event))) if event.topic.to_string() == "job:1"));
}

#[tokio::test]
async fn a_refused_topic_is_the_answer_to_its_subscriber() {
    let hub = Hub::start().await;
    let client = hub.client();

    let (events, _peer) = tokio::join!(client.events("job:1"), async {
        let mut peer = hub.accept().await;
        assert!(matches!(peer.frame().await, Frame::Subscribe(_)));
        let error = CallError::new(Code::AccessDenied, "missing scope `events:subscribe:job`");
        peer.send(encode::refused(&error, Some("job:1"))).await;
        peer
    });

    assert_eq!(events.expect_err("refused").code(), Some(&Code::AccessDenied));
}

#[tokio::test]
async fn a_subscription_yields_its_items_and_dropping_it_aborts() {
    let hub = Hub::start().await;
    let client = hub.client();
    let (items, (mut peer, id)) = tokio::join!(client.subscribe::<_, u32>("clock.ticks", &()), async {
        let mut peer = hub.accept().await;
        let Frame::Requested(call) = peer.frame().await else {
            panic!("expected a call")
        };
        peer.respond(call.request_id.as_str(), "1").await;
        peer.respond(call.request_id.as_str(), "2").await;
        (peer, call.request_id)
    });
    let mut items = items.expect("begun");

    let two = [items.next().await, items.next().await].map(|item| item.expect("open").expect("a number"));
    drop(items);

    assert_eq!(two, [1, 2]);
    assert!(matches!(peer.frame().await, Frame::Aborted { request_id } if request_id == id));
}

#[tokio::test]
async fn the_end_of_a_subscription_and_its_error_come_after_its_items() {
    let hub = Hub::start().await;
    let client = hub.client();
    for error in [None, Some(CallError::new(Code::SpokeLost, "gone"))] {
        let client = if error.is_some() { hub.client() } else { client.clone() };
        let (items, _peer) = tokio::join!(client.subscribe::<_, u32>("clock.ticks", &()), async {
            let mut peer = hub.accept().await;
            let Frame::Requested(call) = peer.frame().await else {
                panic!("expected a call")
            };
            let id = call.request_id.as_str();
            peer.respond(id, "1").await;
            peer.send(match &error {
                None => encode::call_completed(Dialect::Payload, id),
                Some(error) => encode::call_error(Dialect::Payload, id, error),
            })
            .await;
            peer
        });
        let rest: Vec<_> = items.expect("begun").collect().await;

        assert_eq!(*rest[0].as_ref().expect("an item"), 1);
        assert_eq!(rest.len(), 1 + usize::from(error.is_some()));
        assert_eq!(
            rest.last().and_then(|last| last.as_ref().err()).and_then(Error::code),
            error.as_ref().map(|e| &e.code)
        );
    }
}

#[tokio::test]
async fn a_spoke_registers_with_its_schemas_and_answers() {
    let hub = Hub::start().await;
    let start = hub
        .spoke()
        .operation(Operation::query("text.upper", upper).description("Shouts"))
        .start();
    let (spoke, mut peer) = tokio::join!(start, async {
        let mut peer = hub.accept().await;
        let Frame::Requested(call) = peer.frame().await else {
            panic!("expected hub.register")
        };
        let input: serde_json::Value = call.input.expect("given").to().expect("JSON");
        assert_eq!(input["operations"][0]["namespace"], "text");
        assert_eq!(input["operations"][0]["inputSchema"]["type"], "string");
        assert_eq!(input["operations"][0]["type"], "query");
        let data = serde_json::json!({
            "spokeId": "text", "instanceId": "i", "generation": 1, "hubId": "h", "heartbeatMs": 10_000, "operations": [],
        });
        peer.respond(call.request_id.as_str(), &data.to_string()).await;
        peer
    });
    let _spoke = spoke.expect("registered");

    peer.call("r1", "text.upper", "\"hello\"").await;
    let Frame::Responded { request_id, output } = peer.frame().await else {
        panic!("expected an answer")
    };
    peer.call("r2", "text.upper", "5").await;
    let Frame::Failed { error, .. } = peer.frame().await else {
        panic!("expected an error")
    };

    let output: serde_json::Value = output.to().expect("JSON");
    assert_eq!(
        (request_id.as_str(), &output["data"]),
        ("r1", &serde_json::json!("HELLO"))
    );
    assert_eq!(output["meta"]["source"], "local");
    assert_eq!(error.code, Code::ValidationError);
}

#[tokio::test]
async fn a_handler_sees_who_asks_and_everything_that_came_with_the_call() {
    let hub = Hub::start().await;
    let operation = Operation::query("text.who", |(): (), context: Context| async move {
        let metadata = context.metadata().map(|raw| raw.as_str().to_owned());
        let identity = context.identity().cloned().unwrap_or_default();
        let parent = context.parent().map(ToString::to_string);
        Ok::<_, Failure>((metadata, identity.id, identity.scopes, parent))
    });
    let start = hub.spoke().operation(operation).start();
    let (spoke, mut peer) = tokio::join!(start, async {
        let mut peer = hub.accept().await;
        peer.register(serde_json::json!([])).await;
        peer
    });
    let _spoke = spoke.expect("registered");
    let identity = Identity {
        id: "k1".to_owned(),
        scopes: vec!["text:read".to_owned()],
    };
    let metadata = Metadata::new(RawJson::parse(r#"{"n":1.50}"#).expect("JSON")).expect("an object");
    let options = encode::RequestOptions {
        parent: Some("p"),
        metadata: Some(&metadata),
        identity: Some(&identity),
        ..encode::RequestOptions::default()
    };

    let name = "text.who".parse().expect("valid");
    peer.send(encode::call_requested(Dialect::Id, "r1", &name, None, &options))
        .await;

    let Frame::Responded { output, .. } = peer.frame().await else {
        panic!("expected an answer")
    };
    let output: serde_json::Value = output.to().expect("JSON");
    assert_eq!(
        output["data"],
        serde_json::json!([r#"{"n":1.50}"#, "k1", ["text:read"], "p"])
    );
}

#[tokio::test]
async fn a_refused_operation_fails_the_start_and_is_named() {
    let hub = Hub::start().await;
    let start = hub.spoke().operation(Operation::query("other.upper", upper)).start();

    let (spoke, ()) = tokio::join!(start, async {
        let reason = "this key may offer `text.*`";
        let results = serde_json::json!([{ "name": "other.upper", "result": "rejected", "reason": reason }]);
        hub.accept().await.register(results).await;
    });

    let error = spoke.expect_err("rejected").to_string();
    assert!(
        error.contains("other.upper") && error.contains("this key may offer `text.*`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_spoke_comes_back_and_registers_again() {
    let hub = Hub::start().await;
    let start = hub.spoke().operation(Operation::query("text.upper", upper)).start();
    let (spoke, peer) = tokio::join!(start, async {
        let mut peer = hub.accept().await;
        peer.register(serde_json::json!([])).await;
        peer
    });
    let spoke = spoke.expect("registered");

    drop(peer);
    let mut peer = hub.accept().await;
    peer.register(serde_json::json!([])).await;
    peer.call("r1", "text.upper", "\"a\"").await;

    assert!(matches!(peer.frame().await, Frame::Responded { .. }));
    assert!(matches!(&*spoke.status().borrow(), Status::Registered(_)));
}

#[tokio::test]
async fn a_spoke_whose_key_was_revoked_ends_and_says_so() {
    let hub = Hub::start().await;
    let (spoke, mut peer) = tokio::join!(hub.spoke().start(), async {
        let mut peer = hub.accept().await;
        peer.register(serde_json::json!([])).await;
        peer
    });

    let frame = CloseFrame {
        code: 4401.into(),
        reason: "key revoked".into(),
    };
    peer.0.close(Some(frame)).await.expect("sent");

    let error = timeout(SOON, spoke.expect("registered").ended())
        .await
        .expect("ends")
        .expect_err("revoked");
    assert!(
        matches!(&error, Error::Refused { status: 4401, reason, .. } if reason == "key revoked"),
        "{error}"
    );
}

/// Counts handlers that began and those whose future was dropped before its end.
#[derive(Default)]
struct Watched {
    dropped: AtomicUsize,
    began: Notify,
    ended: Notify,
}

struct OnDrop(Arc<Watched>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
        self.0.ended.notify_one();
    }
}

fn endless(watched: Arc<Watched>) -> Operation {
    Operation::mutation("text.wait", move |(): (), context: Context| {
        let watched = watched.clone();
        async move {
            let _guard = OnDrop(watched.clone());
            watched.began.notify_one();
            std::future::pending::<()>().await;
            Ok::<_, Failure>(context.operation().to_string())
        }
    })
}

#[tokio::test]
async fn an_abort_and_a_lost_connection_end_the_handler() {
    let hub = Hub::start().await;
    let watched = Arc::new(Watched::default());
    let start = hub.spoke().operation(endless(watched.clone())).start();
    let (spoke, mut peer) = tokio::join!(start, async {
        let mut peer = hub.accept().await;
        peer.register(serde_json::json!([])).await;
        peer
    });
    let spoke = spoke.expect("registered");

    peer.call("r1", "text.wait", "null").await;
    watched.began.notified().await;
    assert_eq!(spoke.running(), 1);
    peer.send(encode::call_aborted(Dialect::Id, "r1", None)).await;
    timeout(SOON, watched.ended.notified()).await.expect("aborted");

    peer.call("r2", "text.wait", "null").await;
    watched.began.notified().await;
    drop(peer);
    timeout(SOON, watched.ended.notified())
        .await
        .expect("ended with its connection");
    assert_eq!(watched.dropped.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_shutdown_waits_for_the_withdrawal_and_finishes_every_call_that_comes_before_it() {
    let hub = Hub::start().await;
    let (release, began) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let waits = (release.clone(), began.clone());
    let operation = Operation::mutation("text.wait", move |(): ()| {
        let (release, began) = waits.clone();
        async move {
            began.notify_one();
            release.notified().await;
            Ok::<_, Failure>("done")
        }
    });
    let start = hub.spoke().operation(operation).start();
    let (spoke, mut peer) = tokio::join!(start, async {
        let mut peer = hub.accept().await;
        peer.register(serde_json::json!([])).await;
        peer
    });
    let spoke = spoke.expect("registered");
    peer.call("r1", "text.wait", "null").await;
    began.notified().await;

    let played = async {
        let Frame::Requested(again) = peer.frame().await else {
            panic!("expected hub.register")
        };
        let withdrawn: serde_json::Value = again.input.expect("given").to().expect("JSON");
        let mut answered = Vec::new();
        // The last one comes when nothing runs any more, and the withdrawal is still not confirmed.
        for id in ["r2", "r1", "r3"] {
            if id != "r1" {
                peer.call(id, "text.wait", "null").await;
                began.notified().await;
            }
            release.notify_one();
            let Frame::Responded { request_id, .. } = peer.frame().await else {
                panic!("expected an answer")
            };
            answered.push(request_id.to_string());
        }
        peer.respond(again.request_id.as_str(), "{}").await;
        let end = timeout(SOON, peer.0.next()).await.expect("a close in time");
        (withdrawn, answered, end)
    };
    let ((), (withdrawn, mut answered, end)) = tokio::join!(spoke.shutdown(), played);

    assert_eq!(withdrawn["operations"], serde_json::json!([]));
    answered.sort();
    assert_eq!(answered, ["r1", "r2", "r3"]);
    assert!(matches!(end, Some(Ok(Message::Close(_)))), "{end:?}");
}

#[tokio::test]
async fn a_shutdown_ends_though_the_connection_is_lost_before_the_withdrawal_is_confirmed() {
    let hub = Hub::start().await;
    let (spoke, mut peer) = tokio::join!(hub.spoke().start(), async {
        let mut peer = hub.accept().await;
        peer.register(serde_json::json!([])).await;
        peer
    });
    let spoke = spoke.expect("registered");

    let played = async {
        assert!(matches!(peer.frame().await, Frame::Requested(_)), "the withdrawal");
        drop(peer);
    };
    let ended = timeout(SOON, async { tokio::join!(spoke.shutdown(), played) }).await;

    assert!(ended.is_ok(), "nobody waits for an answer that cannot come");
}

#[tokio::test]
async fn more_calls_than_the_concurrency_are_refused_and_a_panic_is_an_error() {
    let hub = Hub::start().await;
    let watched = Arc::new(Watched::default());
    let panics = Operation::query("text.panics", |_: String| async move {
        assert!(std::env::consts::OS.is_empty(), "as it should");
        Ok::<_, Failure>(())
    });
    let start = hub
        .spoke()
        .concurrency(1)
        .operation(endless(watched.clone()))
        .operation(panics)
        .start();
    let (spoke, mut peer) = tokio::join!(start, async {
        let mut peer = hub.accept().await;
        peer.register(serde_json::json!([])).await;
        peer
    });
    let _spoke = spoke.expect("registered");

    peer.call("r1", "text.panics", "\"\"").await;
    let Frame::Failed { error: panicked, .. } = peer.frame().await else {
        panic!("expected an error")
    };
    peer.call("r2", "text.wait", "null").await;
    watched.began.notified().await;
    peer.call("r3", "text.wait", "null").await;
    let Frame::Failed { error: refused, .. } = peer.frame().await else {
        panic!("expected an error")
    };

    assert_eq!(panicked.code, Code::ExecutionError);
    assert_eq!((refused.code, refused.delivered), (Code::Overloaded, Delivered::No));
}
