//! The SDK against a hub that is played by hand, for behaviour that no hub of this version shows, or at a moment that
//! no proxy could choose: it breaks the protocol, is older than this version, forgets, or lets its message cross one of
//! the SDK's.
//!
//! How the SDK works with a real hub, over links that fail, is in `tests/hub`: whatever can be shown there is not here.

mod hashes;
mod pair;
mod redirects;

use std::sync::Arc;
use std::time::Duration;

use alkhub_sdk::protocol::frame::encode;
use alkhub_sdk::protocol::frame::session::{Hello, MIGRATE, Migrate, RESUME, Resume, Welcome};
use alkhub_sdk::protocol::{CallError, Dialect, Frame, RawJson};
use alkhub_sdk::{Client, Code, Delivered, Error, Failure, Operation, Spoke, spoke};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// The answer of a hub that has received this many messages, and says no more.
fn resumed(received: u64) -> Resume {
    Resume {
        received,
        generation: None,
    }
}

/// A hub that does nothing by itself.
struct BrokenHub {
    listener: TcpListener,
    url: String,
}

/// One connection of it.
struct Script(WebSocketStream<TcpStream>);

impl BrokenHub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        Self { listener, url }
    }

    async fn accept(&self) -> Script {
        let accepted = timeout(SOON, self.listener.accept()).await.expect("a connection");
        let (stream, _) = accepted.expect("accepted");
        stream.set_nodelay(true).expect("set");
        Script(tokio_tungstenite::accept_async(stream).await.expect("upgraded"))
    }

    fn client(&self) -> Client {
        let client = Client::builder(&self.url).token("alk_test").timeout(SOON);
        client.build().expect("valid settings")
    }

    /// A spoke that is registered.
    async fn registered(&self, change: impl FnOnce(spoke::Builder) -> spoke::Builder) -> (Spoke, Script) {
        let spoke = change(Spoke::builder(&self.url).token("alk_test").name("text"));
        let (spoke, script) = tokio::join!(spoke.start(), async {
            let mut script = self.accept().await;
            let Frame::Requested(call) = script.frame().await else {
                panic!("expected hub.register")
            };
            let data = json!({
                "spokeId": "text", "instanceId": "i", "generation": 1, "hubId": "h", "heartbeatMs": 10_000, "operations": [],
            });
            script.respond(call.request_id.as_str(), &data.to_string()).await;
            script
        });
        (spoke.expect("registered"), script)
    }
}

impl Script {
    async fn frame(&mut self) -> Frame {
        loop {
            let message = timeout(SOON, self.0.next()).await.expect("a frame in time");
            if let Message::Text(text) = message.expect("open").expect("read") {
                match Frame::decode(&Bytes::from(text)).expect("a frame").0 {
                    // Ignored: this hub does not keep sessions by itself.
                    Frame::Hello(_) => {}
                    frame => return frame,
                }
            }
        }
    }

    /// The `__hello` with which a connection begins.
    async fn hello(&mut self) -> Hello {
        let message = timeout(SOON, self.0.next()).await.expect("a frame in time");
        let Message::Text(text) = message.expect("open").expect("read") else {
            panic!("expected text")
        };
        match Frame::decode(&Bytes::from(text)).expect("a frame").0 {
            Frame::Hello(hello) => *hello,
            other => panic!("expected `__hello`: {other:?}"),
        }
    }

    /// Keeps the session under this id from now on.
    async fn welcome(&mut self, id: &str) {
        let welcome = Welcome {
            session_id: id.to_owned(),
            hub_id: "h".to_owned(),
            heartbeat_ms: 10_000,
            resume_ms: 30_000,
            max_inflight: 1,
            features: vec![RESUME.to_owned(), MIGRATE.to_owned()],
        };
        self.send(encode::welcome(&welcome)).await;
    }

    /// Asks to go on with the session over another connection.
    async fn migrate(&mut self) {
        let migrate = Migrate {
            deadline_ms: 10_000,
            resume: true,
            target: None,
        };
        self.send(encode::migrate(&migrate)).await;
    }

    /// Whether the peer says goodbye rather than just disappearing.
    async fn says_goodbye(&mut self) -> bool {
        loop {
            match timeout(SOON, self.0.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(_))) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }

    async fn send(&mut self, frame: Bytes) {
        let text = String::from_utf8(frame.into()).expect("UTF-8");
        self.0.send(Message::text(text)).await.expect("sent");
    }

    async fn call(&mut self, id: &str, operation: &str, input: &str) {
        let operation = operation.parse().expect("valid");
        let input = RawJson::parse(input.to_owned()).expect("JSON");
        let options = encode::RequestOptions::default();
        self.send(encode::call_requested(
            Dialect::Id,
            id,
            &operation,
            Some(&input),
            &options,
        ))
        .await;
    }

    /// Answers in the dialect that the SDK does not use.
    async fn respond(&mut self, id: &str, data: &str) {
        let output = RawJson::parse(format!("{{\"data\":{data},\"meta\":{{}}}}")).expect("JSON");
        self.send(encode::call_responded(Dialect::Payload, id, &output)).await;
    }

    /// The call of a client.
    async fn asked(&mut self) -> (String, String) {
        match self.frame().await {
            Frame::Requested(call) => (call.request_id.to_string(), call.operation.to_string()),
            other => panic!("expected a call: {other:?}"),
        }
    }

    /// The error with which a call ends.
    async fn failed(&mut self) -> CallError {
        match self.frame().await {
            Frame::Failed { error, .. } => error,
            other => panic!("expected an error: {other:?}"),
        }
    }
}

async fn upper(text: String) -> Result<String, Failure> {
    Ok(text.to_uppercase())
}

#[tokio::test]
async fn an_answer_over_the_limit_fails_its_call_and_no_other() {
    let hub = BrokenHub::start().await;
    let client = hub.client();
    let calls = async {
        tokio::join!(
            client.call::<_, String>("a.large", &1),
            client.call::<_, String>("a.small", &2)
        )
    };
    let played = async {
        let mut script = hub.accept().await;
        for _ in 0..2 {
            let (id, operation) = script.asked().await;
            let size = if operation == "a.large" { 2 << 20 } else { 1 };
            script.respond(&id, &format!("\"{}\"", "x".repeat(size))).await;
        }
        script
    };

    let ((large, small), _script) = tokio::join!(calls, played);

    assert_eq!(large.expect_err("too large").code(), Some(&Code::PayloadTooLarge));
    assert_eq!(small.expect("answered"), "x");
}

#[tokio::test]
async fn what_is_no_message_and_what_nobody_asked_for_disturbs_no_call() {
    let hub = BrokenHub::start().await;
    let client = hub.client();
    let played = async {
        let mut script = hub.accept().await;
        let (id, _) = script.asked().await;
        for noise in [
            "",
            "{",
            "[]",
            "{\"type\":\"call.responded\"}",
            "{\"type\":\"new\",\"id\":\"\"}",
        ] {
            script.send(Bytes::from(noise)).await;
        }
        script.respond("nobody", "1").await;
        script.send(encode::call_completed(Dialect::Id, "nobody")).await;
        script.respond(&id, "\"HELLO\"").await;
        script
    };

    let (answer, _script) = tokio::join!(client.call::<_, String>("text.upper", "hello"), played);

    assert_eq!(answer.expect("answered"), "HELLO");
}

#[tokio::test]
async fn a_query_that_completes_without_an_output_is_an_error() {
    let hub = BrokenHub::start().await;
    let client = hub.client();
    let played = async {
        let mut script = hub.accept().await;
        let (id, _) = script.asked().await;
        script.send(encode::call_completed(Dialect::Id, &id)).await;
        script
    };

    let (answer, _script) = tokio::join!(client.call::<_, String>("text.upper", "hello"), played);

    assert_eq!(answer.expect_err("no output").code(), Some(&Code::UnknownError));
}

#[tokio::test]
async fn an_answer_of_another_shape_is_told_as_such() {
    let hub = BrokenHub::start().await;
    let client = hub.client();
    let played = async {
        let mut script = hub.accept().await;
        let (id, _) = script.asked().await;
        script.respond(&id, "5").await;
        script
    };

    let (answer, _script) = tokio::join!(client.call::<_, String>("text.upper", "hello"), played);

    let error = answer.expect_err("a number");
    assert!(matches!(error, Error::Decode { .. }), "{error}");
    assert_eq!(error.delivered(), Delivered::Yes);
}

#[tokio::test]
async fn a_client_that_is_called_refuses() {
    let hub = BrokenHub::start().await;
    let client = hub.client();
    let played = async {
        let mut script = hub.accept().await;
        let (id, _) = script.asked().await;
        script.call("r1", "text.upper", "\"hello\"").await;
        let refused = script.failed().await;
        script.respond(&id, "\"HELLO\"").await;
        (script, refused)
    };

    let (answer, (_script, refused)) = tokio::join!(client.call::<_, String>("text.upper", "hello"), played);

    assert_eq!(refused.code, Code::OperationNotFound);
    assert_eq!(answer.expect("answered"), "HELLO");
}

#[tokio::test]
async fn a_spoke_checks_what_the_hub_should_have_checked() {
    let hub = BrokenHub::start().await;
    let upper = Operation::query("text.upper", upper);
    let (_spoke, mut script) = hub.registered(|spoke| spoke.operation(upper)).await;

    script.call("r1", "text.upper", "5").await;
    let wrong = script.failed().await;
    script.call("r2", "text.lower", "\"A\"").await;
    let unknown = script.failed().await;
    script
        .send(Bytes::from_static(
            b"{\"type\":\"call.requested\",\"id\":\"r3\",\"payload\":{}}",
        ))
        .await;
    let unreadable = script.failed().await;

    assert_eq!(wrong.code, Code::ValidationError);
    assert_eq!(
        (unknown.code, unknown.delivered),
        (Code::OperationNotFound, Delivered::No)
    );
    assert_eq!(unreadable.code, Code::BadRequest);
}

#[tokio::test]
async fn a_spoke_refuses_more_calls_than_its_concurrency() {
    let hub = BrokenHub::start().await;
    let began = Arc::new(Notify::new());
    let begins = Arc::clone(&began);
    let waits = Operation::mutation("text.wait", move |(): ()| {
        let begins = Arc::clone(&begins);
        async move {
            begins.notify_one();
            std::future::pending::<Result<(), Failure>>().await
        }
    });
    let (_spoke, mut script) = hub.registered(|spoke| spoke.concurrency(1).operation(waits)).await;

    script.call("r1", "text.wait", "null").await;
    began.notified().await;
    script.call("r2", "text.wait", "null").await;
    let refused = script.failed().await;

    assert_eq!((refused.code, refused.delivered), (Code::Overloaded, Delivered::No));
}

/// A client whose session is kept as `s`, and the hub's end of its connection.
async fn kept(hub: &BrokenHub) -> (Client, Script) {
    let client = hub.client();
    let asks = client.call::<_, String>("text.upper", "a");
    let (answer, script) = tokio::join!(asks, async {
        let mut script = hub.accept().await;
        script.hello().await;
        script.welcome("s").await;
        let (id, _) = script.asked().await;
        script.respond(&id, "\"A\"").await;
        script
    });
    answer.expect("answered");
    (client, script)
}

#[tokio::test]
async fn a_client_that_is_closed_while_its_session_moves_ends_it_where_it_is_then() {
    let hub = BrokenHub::start().await;
    let (client, mut old) = kept(&hub).await;

    old.migrate().await;
    let mut next = hub.accept().await;
    let hello = next.hello().await;
    let (goodbye, ()) = tokio::join!(
        async {
            next.welcome("s").await;
            next.send(encode::resumed(&resumed(1))).await;
            next.says_goodbye().await
        },
        client.close()
    );

    assert!(hello.resume.is_some_and(|resume| resume.session_id == "s"));
    assert!(goodbye, "nobody comes back to the session");
}

/// The hub heard late of an earlier connection of the client and gave it the session, which nobody has now.
#[tokio::test]
async fn a_client_whose_connection_is_closed_as_the_session_moves_comes_back_to_it() {
    let hub = BrokenHub::start().await;
    let (client, mut old) = kept(&hub).await;

    old.closes(4001).await;
    let mut next = hub.accept().await;
    let hello = next.hello().await;
    next.welcome("s").await;
    next.send(encode::resumed(&resumed(1))).await;
    let asks = client.call::<_, String>("text.upper", "b");
    let (answer, ()) = tokio::join!(asks, async {
        let (id, _) = next.asked().await;
        next.respond(&id, "\"B\"").await;
    });

    assert!(hello.resume.is_some_and(|resume| resume.session_id == "s"));
    assert_eq!(answer.expect("answered"), "B");
}

#[tokio::test]
async fn a_client_that_is_closed_while_it_comes_back_ends_its_session() {
    let hub = BrokenHub::start().await;
    let (client, old) = kept(&hub).await;

    drop(old);
    let mut next = hub.accept().await;
    next.hello().await;
    let (goodbye, ()) = tokio::join!(
        async {
            next.welcome("s").await;
            next.send(encode::resumed(&resumed(1))).await;
            next.says_goodbye().await
        },
        client.close()
    );

    assert!(goodbye, "nobody comes back to the session");
}
