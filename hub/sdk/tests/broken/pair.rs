//! A spoke with two sessions, whose hubs do each thing at a moment that no test could choose for real hubs.
//!
//! What a proxy can show with two real ones is in `tests/hub/pair.rs`.

use std::sync::Arc;
use std::time::Duration;

use alkhub_sdk::protocol::frame::encode;
use alkhub_sdk::protocol::{CallError, Dialect, Frame};
use alkhub_sdk::{Code, Failure, Operation, Spoke, spoke};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::{BrokenHub, SOON, Script, resumed};

/// The size of a large answer, and how many of its bytes are more than an unread socket takes.
const LARGE: usize = 700_000;
const MANY: usize = 10;

/// Less than the time for which a lost session waits for its calls.
const AT_ONCE: Duration = Duration::from_secs(6);

/// A spoke, and its two sessions as their hubs `h1` and `h2` see them.
struct Pair {
    spoke: Spoke,
    first: Script,
    second: Script,
}

/// `text.wait`, which counts how often it began and answers when it may.
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

    /// An operation whose answer has this many bytes.
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

    /// Waits until this many calls run.
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

    /// The same, but the first session is kept by its hub, `h`.
    async fn with_one_kept(hub: &BrokenHub, spoke: spoke::Builder) -> Self {
        let spoke = spoke.spawn().expect("valid settings");
        let mut first = hub.accept().await;
        first.hello().await;
        first.welcome("s").await;
        let (id, _) = first.registers().await;
        first.confirms(&id, "h", None).await;
        first.send(encode::hubs(2)).await;
        let mut second = hub.accept().await;
        let (id, _) = second.registers().await;
        second.confirms(&id, "h2", None).await;
        second.send(encode::hubs(3)).await;
        is_on(&spoke, &["h", "h2"]).await;
        Self { spoke, first, second }
    }
}

// === impl Script ===

impl Script {
    /// The next registration: its id and its input.
    pub(crate) async fn registers(&mut self) -> (String, Value) {
        // If it does not, pings arrive in time.
        let frame = timeout(SOON, self.frame()).await.expect("a registration in time");
        let Frame::Requested(call) = frame else {
            panic!("expected hub.register: {frame:?}")
        };
        assert_eq!(call.operation.as_str(), "hub.register");
        let input = call.input.expect("it has one").to().expect("an object");
        (call.request_id.to_string(), input)
    }

    /// Confirms it, with the concurrency that its declaration allows.
    async fn confirms(&mut self, id: &str, hub: &str, concurrency: Option<u32>) {
        let mut data = json!({
            "spokeId": "text", "instanceId": "i", "generation": 1, "hubId": hub, "heartbeatMs": 10_000, "operations": [],
        });
        if let Some(concurrency) = concurrency {
            data["concurrency"] = concurrency.into();
        }
        self.respond(id, &data.to_string()).await;
    }

    /// Accepts the withdrawal of the operations.
    async fn is_withdrawn(&mut self, hub: &str) {
        let (id, input) = self.registers().await;
        assert_eq!(input["operations"], json!([]), "{input}");
        self.confirms(&id, hub, None).await;
    }

    /// Waits for a ping, and answers it.
    async fn is_pinged(&mut self) {
        loop {
            let message = timeout(SOON, self.0.next()).await.expect("a ping in time");
            if let Message::Ping(_) = message.expect("open").expect("read") {
                return self.0.flush().await.expect("answered");
            }
        }
    }

    pub(crate) async fn closes(&mut self, code: u16) {
        let frame = CloseFrame {
            code: code.into(),
            reason: "so".into(),
        };
        self.0.send(Message::Close(Some(frame))).await.expect("sent");
    }
}

/// The first session, registered at `h1`, whose declaration allows this concurrency.
async fn first(hub: &BrokenHub, concurrency: Option<u32>) -> Script {
    let mut first = hub.accept().await;
    let (id, _) = first.registers().await;
    first.confirms(&id, "h1", concurrency).await;
    first
}

/// A spoke whose first session runs a call, and which has just heard that there is another hub.
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

/// `text.ticks`, which says nothing and does not end.
fn endless() -> Operation {
    Operation::subscription("text.ticks", |(): ()| {
        futures::stream::pending::<Result<u32, Failure>>()
    })
}

/// The connection of a session that its hub keeps is lost, and the next hub says that nobody has the session.
async fn is_found_to_be_lost(hub: &BrokenHub, script: Script) {
    drop(script);
    let mut back = hub.accept().await;
    assert!(back.hello().await.resume.is_some());
    let ended = CallError::new(Code::NotFound, "it has ended");
    back.send(encode::refused(&ended, None)).await;
    assert!(!back.says_goodbye().await);
}

/// Waits until a spoke runs this many calls.
async fn runs(spoke: &Spoke, calls: usize) {
    let waiting = async {
        while spoke.running() != calls {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(AT_ONCE, waiting).await;
    assert!(waited.is_ok(), "{} run, not {calls}", spoke.running());
}

/// Waits until a spoke is connected to these hubs.
async fn is_on(spoke: &Spoke, hubs: &[&str]) {
    let mut status = spoke.status();
    let there = timeout(SOON, status.wait_for(|_| spoke.hubs() == hubs)).await;
    assert!(there.is_ok_and(|there| there.is_ok()), "{:?}", spoke.hubs());
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

/// The session could come back for half a minute.
#[tokio::test]
async fn a_spoke_that_ends_does_not_wait_long_for_the_one_of_its_sessions_that_is_away() {
    let hub = BrokenHub::start().await;
    let spoke = text(&hub).spawn().expect("valid settings");
    let mut first = first(&hub, None).await;
    first.send(encode::hubs(2)).await;
    let mut second = hub.accept().await;
    second.hello().await;
    second.welcome("s").await;
    let (id, _) = second.registers().await;
    second.confirms(&id, "h", None).await;
    is_on(&spoke, &["h1", "h"]).await;
    drop(second);
    is_on(&spoke, &["h1"]).await;

    let ends = async {
        first.is_withdrawn("h1").await;
        assert!(first.says_goodbye().await);
    };
    let ended = timeout(Duration::from_secs(8), spoke.shutdown());
    let ((), ended) = tokio::join!(ends, ended);

    assert!(ended.is_ok(), "it waits for 10 s where a hub is there and silent");
}

/// It answers pings, of which there is one every two seconds while the spoke waits for it.
#[tokio::test]
async fn a_spoke_that_ends_waits_for_a_slow_hub_though_the_other_one_is_done() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let Pair {
        spoke,
        mut first,
        mut second,
    } = Pair::start(&hub, text(&hub).operation(gate.operation(1))).await;

    let ends = async {
        second.is_withdrawn("h2").await;
        let (id, _) = first.registers().await;
        for _ in 0..2 {
            first.is_pinged().await;
        }
        // It was sent before the withdrawal came.
        first.call("r1", "text.wait", "null").await;
        gate.run(1).await;
        first.confirms(&id, "h1", None).await;
        gate.go_on.add_permits(1);
        let answer = first.frame().await;
        assert!(matches!(answer, Frame::Responded { .. }), "{answer:?}");
        tokio::join!(first.says_goodbye(), second.says_goodbye())
    };
    let (goodbyes, ()) = tokio::join!(ends, spoke.shutdown());
    assert_eq!(goodbyes, (true, true));
}

/// When a hub was killed, the others may say at once that nobody has its sessions. They take its calls for lost much
/// later.
#[tokio::test]
async fn what_runs_when_a_session_is_found_to_be_lost_is_answered_over_the_other_one() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let Pair {
        spoke,
        mut first,
        mut second,
    } = Pair::with_one_kept(&hub, text(&hub).operation(gate.operation(1)).operation(endless())).await;
    first.call("r1", "text.wait", "null").await;
    gate.run(1).await;
    first.call("r2", "text.ticks", "null").await;
    runs(&spoke, 2).await;

    is_found_to_be_lost(&hub, first).await;
    runs(&spoke, 1).await;
    gate.go_on.add_permits(1);

    // Pings keep it company.
    let answer = timeout(SOON, second.frame()).await.expect("an answer in time");
    assert!(matches!(answer, Frame::Responded { .. }), "{answer:?}");
    let mut anew = hub.accept().await;
    let (id, _) = anew.registers().await;
    anew.confirms(&id, "h3", None).await;
    is_on(&spoke, &["h3", "h2"]).await;
}

/// No hub takes the rest of a stream, so there is nothing to wait for.
#[tokio::test]
async fn a_session_that_is_found_to_be_lost_is_registered_again_at_once_if_only_streams_run() {
    let hub = BrokenHub::start().await;
    let Pair {
        spoke,
        mut first,
        second: _second,
    } = Pair::with_one_kept(&hub, text(&hub).operation(endless())).await;
    first.call("r1", "text.ticks", "null").await;
    runs(&spoke, 1).await;

    is_found_to_be_lost(&hub, first).await;
    let mut anew = timeout(AT_ONCE, hub.accept()).await.expect("it does not wait");

    let (id, _) = anew.registers().await;
    anew.confirms(&id, "h3", None).await;
    is_on(&spoke, &["h3", "h2"]).await;
    assert_eq!(spoke.running(), 0);
}

/// A spoke with one session, which its hub keeps and which runs a call.
async fn kept(hub: &BrokenHub, gate: &Gate) -> (Spoke, Script) {
    let spoke = text(hub).sessions(1).operation(gate.operation(1));
    let spoke = spoke.spawn().expect("valid settings");
    let mut script = hub.accept().await;
    script.hello().await;
    script.welcome("s").await;
    let (id, _) = script.registers().await;
    script.confirms(&id, "h", None).await;
    is_on(&spoke, &["h"]).await;
    script.call("r1", "text.wait", "null").await;
    gate.run(1).await;
    (spoke, script)
}

/// Such a spoke that ends: its call is answered, and the connection breaks before its hub has answered the close.
async fn answers_and_is_cut(mut script: Script, gate: &Gate) {
    script.is_withdrawn("h").await;
    gate.go_on.add_permits(1);
    assert!(script.says_goodbye().await);
}

/// The end of such a session over another connection: the hub has received the registration and the withdrawal, and
/// gets the answer.
async fn ends_with_the_answer(script: &mut Script) {
    let hello = script.hello().await;
    assert!(hello.resume.is_some_and(|resume| resume.session_id == "s"));
    script.welcome("s").await;
    script.send(encode::resumed(&resumed(2))).await;
    let answer = script.frame().await;
    assert!(matches!(answer, Frame::Responded { .. }), "{answer:?}");
    assert!(script.says_goodbye().await, "nobody comes back to the session");
}

#[tokio::test]
async fn an_answer_that_is_ready_while_the_connection_is_lost_is_sent_before_the_spoke_ends() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let (spoke, mut script) = kept(&hub, &gate).await;

    let ends = async {
        script.is_withdrawn("h").await;
        drop(script);
        let dialed = timeout(SOON, hub.listener.accept()).await.expect("dialled");
        let (stream, _) = dialed.expect("open");
        gate.go_on.add_permits(1);
        while spoke.running() > 0 {
            tokio::task::yield_now().await;
        }
        let mut script = Script(tokio_tungstenite::accept_async(stream).await.expect("upgraded"));
        ends_with_the_answer(&mut script).await;
    };
    tokio::join!(ends, spoke.shutdown());
}

/// The answer was written, and got lost with the connection.
#[tokio::test]
async fn an_answer_is_sent_again_if_the_connection_breaks_before_the_hub_has_answered_the_close() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let (spoke, script) = kept(&hub, &gate).await;

    let ends = async {
        answers_and_is_cut(script, &gate).await;
        ends_with_the_answer(&mut hub.accept().await).await;
    };
    tokio::join!(ends, spoke.shutdown());
}

/// Its hub hangs for good.
#[tokio::test]
async fn a_spoke_that_has_come_back_with_its_answers_once_ends_though_the_hub_answers_no_close() {
    let (hub, gate) = (BrokenHub::start().await, Gate::new());
    let (spoke, script) = kept(&hub, &gate).await;

    let ends = async {
        answers_and_is_cut(script, &gate).await;
        let mut script = hub.accept().await;
        ends_with_the_answer(&mut script).await;
        script
    };
    let (_open, ended) = tokio::join!(ends, timeout(SOON, spoke.shutdown()));
    assert!(ended.is_ok());
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
