//! A spoke with two sessions, whose hubs do each thing at the moment that matters.

use std::sync::Arc;

use alkhub_sdk::protocol::frame::encode;
use alkhub_sdk::protocol::frame::session::{RESUME, Welcome};
use alkhub_sdk::protocol::{CallError, Dialect, Frame};
use alkhub_sdk::{Code, Error, Failure, Operation, Spoke, spoke};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::{BrokenHub, SOON, Script};

/// Bytes of a large answer, and how many of them are more than a socket takes that nobody reads.
const LARGE: usize = 700_000;
const MANY: usize = 10;

/// A spoke, and its two sessions as their hubs `h1` and `h2` see them.
struct Pair {
    spoke: Spoke,
    first: Script,
    second: Script,
}

/// `text.wait`, which counts its beginnings and answers when it may.
#[derive(Clone)]
struct Gate {
    began: Arc<Semaphore>,
    go_on: Arc<Semaphore>,
}

// === impl Gate ===

impl Gate {
    fn new() -> Self {
        Self {
            began: Arc::new(Semaphore::new(0)),
            go_on: Arc::new(Semaphore::new(0)),
        }
    }

    /// It answers so many bytes.
    fn operation(&self, size: usize) -> Operation {
        let gate = self.clone();
        Operation::mutation("text.wait", move |(): ()| {
            let gate = gate.clone();
            async move {
                gate.began.add_permits(1);
                gate.go_on.acquire().await.expect("it stays open").forget();
                Ok::<_, Failure>("x".repeat(size))
            }
        })
    }

    /// Waits until so many run.
    async fn run(&self, calls: u32) {
        let began = timeout(SOON, self.began.acquire_many(calls)).await;
        began.expect("they begin in time").expect("it stays open").forget();
    }
}

// === impl Pair ===

impl Pair {
    async fn start(hub: &BrokenHub, spoke: spoke::Builder) -> Self {
        let spoke = spoke.spawn().expect("valid settings");
        let mut first = first(hub, None).await;
        first.send(encode::hubs(2)).await;
        let mut second = hub.accept().await;
        let (id, _) = second.registers().await;
        second.confirms(&id, "h2", None).await;
        is_on(&spoke, &["h1", "h2"]).await;
        Self { spoke, first, second }
    }
}

// === impl Script ===

impl Script {
    /// The next registration: its id and its input.
    async fn registers(&mut self) -> (String, Value) {
        // Pings come in time where it does not.
        let frame = timeout(SOON, self.frame()).await.expect("a registration in time");
        let Frame::Requested(call) = frame else {
            panic!("expected hub.register: {frame:?}")
        };
        assert_eq!(call.operation.as_str(), "hub.register");
        let input = call.input.expect("it has one").to().expect("an object");
        (call.request_id.to_string(), input)
    }

    /// Confirms it, with what its record takes at once.
    async fn confirms(&mut self, id: &str, hub: &str, concurrency: Option<u32>) {
        let mut data = json!({
            "spokeId": "text", "instanceId": "i", "generation": 1, "hubId": hub, "heartbeatMs": 10_000, "operations": [],
        });
        if let Some(concurrency) = concurrency {
            data["concurrency"] = concurrency.into();
        }
        self.respond(id, &data.to_string()).await;
    }

    /// Takes the withdrawal of the operations.
    async fn is_withdrawn(&mut self, hub: &str) {
        let (id, input) = self.registers().await;
        assert_eq!(input["operations"], json!([]), "{input}");
        self.confirms(&id, hub, None).await;
    }

    pub(crate) async fn closes(&mut self, code: u16) {
        let frame = CloseFrame {
            code: code.into(),
            reason: "so".into(),
        };
        self.0.send(Message::Close(Some(frame))).await.expect("sent");
    }

    /// Keeps the session, as the hub of this name.
    async fn keeps(&mut self, hub: &str) {
        self.hello().await;
        let welcome = Welcome {
            session_id: hub.to_owned(),
            hub_id: hub.to_owned(),
            heartbeat_ms: 10_000,
            resume_ms: 30_000,
            max_inflight: 1,
            features: vec![RESUME.to_owned()],
        };
        self.send(encode::welcome(&welcome)).await;
    }
}

/// The first session, registered at `h1`, where its record takes so many calls at once.
async fn first(hub: &BrokenHub, concurrency: Option<u32>) -> Script {
    let mut first = hub.accept().await;
    let (id, _) = first.registers().await;
    first.confirms(&id, "h1", concurrency).await;
    first
}

/// A spoke whose first session runs a call, and has just heard that there is another hub.
async fn busy(hub: &BrokenHub, gate: &Gate) -> (Spoke, Script) {
    let spoke = text(hub).operation(gate.operation(1)).spawn().expect("valid settings");
    let mut first = first(hub, None).await;
    first.call("r1", "text.wait", "null").await;
    gate.run(1).await;
    first.send(encode::hubs(2)).await;
    (spoke, first)
}

fn text(hub: &BrokenHub) -> spoke::Builder {
    Spoke::builder(&hub.url).token("alk_test").name("text").instance_id("i")
}

/// Waits until a spoke is connected to these hubs.
async fn is_on(spoke: &Spoke, hubs: &[&str]) {
    let mut status = spoke.status();
    let there = timeout(SOON, status.wait_for(|_| spoke.hubs() == hubs)).await;
    assert!(there.is_ok_and(|there| there.is_ok()), "{:?}", spoke.hubs());
}

/// The next connection, and what is asked of its route.
async fn accept(hub: &BrokenHub) -> (Script, String) {
    let accepted = timeout(SOON, hub.listener.accept()).await.expect("a connection");
    let (stream, _) = accepted.expect("accepted");
    let mut query = String::new();
    let look = |request: &Request, response: Response| {
        query = request.uri().query().unwrap_or_default().to_owned();
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, look)
        .await
        .expect("upgraded");
    (Script(socket), query)
}

#[tokio::test]
async fn what_a_hub_allows_an_instance_is_divided_and_not_allowed_twice() {
    let hub = BrokenHub::start().await;
    let _spoke = text(&hub).spawn().expect("valid settings");
    let mut first = first(&hub, Some(3)).await;
    first.send(encode::hubs(2)).await;

    let mut second = hub.accept().await;
    let (id, share) = first.registers().await;
    first.confirms(&id, "h1", Some(2)).await;
    let (_, rest) = second.registers().await;

    assert_eq!((&share["concurrency"], &rest["concurrency"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn the_end_of_the_first_session_while_the_spoke_ends_aborts_no_call_of_the_second() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let Pair {
        spoke,
        mut first,
        mut second,
    } = Pair::start(&hub, text(&hub).operation(gate.operation(1))).await;
    second.call("r1", "text.wait", "null").await;
    gate.run(1).await;

    let ends = async {
        first.is_withdrawn("h1").await;
        second.is_withdrawn("h2").await;
        first.closes(1001).await;
        is_on(&spoke, &["h2"]).await;
        gate.go_on.add_permits(1);
        second.frame().await
    };
    let (answer, ()) = tokio::join!(ends, spoke.shutdown());

    assert!(matches!(answer, Frame::Responded { .. }), "{answer:?}");
}

#[tokio::test]
async fn the_second_session_is_closed_once_all_its_answers_are_written() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let Pair {
        spoke,
        mut first,
        mut second,
    } = Pair::start(&hub, text(&hub).operation(gate.operation(LARGE))).await;
    for n in 0..MANY {
        second.call(&format!("r{n}"), "text.wait", "null").await;
    }
    gate.run(10).await;

    let ends = async {
        first.is_withdrawn("h1").await;
        second.is_withdrawn("h2").await;
        gate.go_on.add_permits(MANY);
        assert!(first.says_goodbye().await);
        for n in 0..MANY {
            let answer = second.frame().await;
            assert!(matches!(answer, Frame::Responded { .. }), "{n}: {answer:?}");
        }
        assert!(second.says_goodbye().await);
    };
    tokio::join!(ends, spoke.shutdown());
}

#[tokio::test]
async fn a_session_that_is_registered_while_the_spoke_ends_is_withdrawn_at_once() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let (spoke, mut first) = busy(&hub, &gate).await;
    let mut second = hub.accept().await;
    let (id, _) = second.registers().await;

    let ends = async {
        first.is_withdrawn("h1").await;
        second.confirms(&id, "h2", None).await;
        second.is_withdrawn("h2").await;
        gate.go_on.add_permits(1);
    };
    tokio::join!(ends, spoke.shutdown());
}

#[tokio::test]
async fn no_session_registers_that_is_connected_while_the_spoke_ends() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let (spoke, mut first) = busy(&hub, &gate).await;
    let (stream, _) = timeout(SOON, hub.listener.accept())
        .await
        .expect("dialled")
        .expect("open");

    let ends = async {
        first.is_withdrawn("h1").await;
        let mut second = tokio_tungstenite::accept_async(stream).await.expect("upgraded");
        let said = timeout(SOON, second.next()).await.expect("an end in time");
        assert!(!matches!(said, Some(Ok(Message::Text(_)))), "{said:?}");
        gate.go_on.add_permits(1);
    };
    tokio::join!(ends, spoke.shutdown());
}

#[tokio::test]
async fn a_spoke_ends_when_another_program_takes_the_place_of_its_second_session() {
    let hub = BrokenHub::start().await;
    let mut pair = Pair::start(&hub, text(&hub)).await;

    pair.second.closes(4409).await;
    let ended = timeout(SOON, pair.spoke.ended()).await.expect("in time");

    assert!(matches!(ended, Err(Error::Refused { status: 4409, .. })), "{ended:?}");
    assert!(pair.first.says_goodbye().await);
}

#[tokio::test]
async fn the_session_that_is_left_is_registered_with_all_calls_though_its_hub_refuses_at_first() {
    let hub = BrokenHub::start().await;
    let _spoke = text(&hub).concurrency(3).spawn().expect("valid settings");
    let mut first = first(&hub, Some(3)).await;
    first.send(encode::hubs(2)).await;
    let mut second = hub.accept().await;
    let (id, _) = first.registers().await;
    first.confirms(&id, "h1", Some(2)).await;
    let (id, _) = second.registers().await;
    second.confirms(&id, "h2", Some(1)).await;

    first.closes(1001).await;
    let (id, all) = second.registers().await;
    assert_eq!(all["concurrency"], 3);
    let refusal = CallError::new(Code::Unavailable, "not now").retryable();
    second.send(encode::call_error(Dialect::Payload, &id, &refusal)).await;

    let (_, again) = second.registers().await;
    assert_eq!(again["concurrency"], 3);
}

#[tokio::test]
async fn sessions_that_are_both_away_avoid_the_hub_to_which_the_other_comes_back() {
    let hub = BrokenHub::start().await;
    let spoke = text(&hub).spawn().expect("valid settings");
    let mut first = hub.accept().await;
    first.keeps("h1").await;
    let (id, _) = first.registers().await;
    first.confirms(&id, "h1", None).await;
    first.send(encode::hubs(2)).await;
    let mut second = hub.accept().await;
    second.keeps("h2").await;
    let (id, _) = second.registers().await;
    second.confirms(&id, "h2", None).await;
    is_on(&spoke, &["h1", "h2"]).await;

    drop((first, second));
    is_on(&spoke, &[]).await;
    // Each twice: one may have been dialled before that session knew that the other is away too.
    let mut asked = Vec::new();
    let often = |asked: &[String], avoided: &str| asked.iter().filter(|query| *query == avoided).count() >= 2;
    while !(often(&asked, "avoid=h1") && often(&asked, "avoid=h2")) {
        assert!(asked.len() < 8, "{asked:?}");
        let (script, query) = accept(&hub).await;
        drop(script);
        asked.push(query);
    }
}
