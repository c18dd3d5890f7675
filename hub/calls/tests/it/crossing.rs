//! Messages between two hubs cross, or are late: one of the hubs is played by the test.

use alkhub_calls::Answer;
use alkhub_config::EventsConfig;
use alkhub_hub_cluster::{Cluster, Inbound, Inbox, LinkState, OfferedOperation};
use alkhub_protocol::{Code, Delivered, HubId, OperationSpec};
use alkhub_store::SpecHash;
use alkhub_tasks::Supervisor;
use alkhub_test_support::within;
use bytes::Bytes;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fixture::{Spoke, cluster, record, request, subscription};
use crate::pair::{Pair, in_flight, sees};

/// The hub that the test plays.
const PLAYED: &str = "pod-c-c1";

/// A hub of which the test says each word.
struct Played {
    cluster: Cluster,
    inbox: Inbox,
    /// To the real hub.
    to: HubId,
    tasks: TaskTracker,
    stop: CancellationToken,
}

// === impl Played ===

impl Played {
    async fn beside(pair: &Pair, to: &str) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let config = EventsConfig {
            redis_url: Some(pair.redis.url().into()),
            ..EventsConfig::default()
        };
        let hub = PLAYED.parse().expect("a hub's id");
        let supervisor = Supervisor::new(tasks.clone(), stop.clone());
        let cluster = cluster(&config, &hub, &supervisor, &Registry::new());
        let mut link = cluster.link();
        let up = link.wait_for(|state| *state == LinkState::Up);
        within("Redis is up", up).await.expect("the hub lives");
        Self {
            inbox: cluster.inbox(),
            cluster,
            to: to.parse().expect("a hub's id"),
            tasks,
            stop,
        }
    }

    /// Says something: a header, and a frame where one belongs to it.
    fn say(&self, mut header: Value, frame: Option<Value>) {
        header["from"] = json!(PLAYED);
        let frame = frame.map_or_else(String::new, |frame| frame.to_string());
        let message = Bytes::from(format!("{header}\n{frame}"));
        self.cluster.send(&self.to, message).expect("the link is up");
    }

    /// Sends a call to a registration.
    fn call(&self, key: u64, attempt: u8, spoke: &Spoke, generation: u64) {
        let to = json!({"spoke": "text", "instance": spoke.output.instance_id, "generation": generation});
        let payload = json!({"requestId": key.to_string(), "operationId": "text.upper", "input": 1});
        self.say(
            json!({"key": key, "way": "out", "attempt": attempt, "to": to}),
            Some(json!({"type": "call.requested", "id": "", "payload": payload})),
        );
    }

    /// Answers a call with an item.
    fn item(&self, key: u64, attempt: u8, items: u64) {
        let payload = json!({"requestId": key.to_string(), "output": items});
        self.say(
            json!({"key": key, "way": "back", "attempt": attempt, "items": items}),
            Some(json!({"type": "call.responded", "id": "", "payload": payload})),
        );
    }

    /// The header of the next message, and the type of its frame.
    async fn hears(&mut self) -> (Value, String) {
        let Some(Inbound::Message(message)) = within("a message of the other hub", self.inbox.recv()).await else {
            panic!("the link broke");
        };
        let text = String::from_utf8(message.to_vec()).expect("text");
        let (header, frame) = text.split_once('\n').expect("a header");
        let kind = serde_json::from_str::<Value>(frame).map_or_else(
            |_| String::new(),
            |frame| frame["type"].as_str().unwrap_or_default().to_owned(),
        );
        (serde_json::from_str(header).expect("JSON"), kind)
    }

    /// The same, passing over comparisons: they come whenever a link does.
    async fn hears_of_a_call(&mut self) -> (Value, String) {
        loop {
            let (header, kind) = self.hears().await;
            if header["way"] != "known" {
                return (header, kind);
            }
        }
    }

    /// Registers an instance of `text`, which is only played too.
    async fn offers(&self, instance: &str, operation: &Value) -> u64 {
        let spec: OperationSpec = serde_json::from_value(operation.clone()).expect("a specification");
        let offered = OfferedOperation {
            name: "text.upper".parse().expect("valid"),
            hash: SpecHash::of(&spec).to_string(),
        };
        let entry = record(PLAYED, instance, vec![offered]);
        let registered = self.cluster.register_unless(&CancellationToken::new(), entry).await;
        registered.expect("the hub lives")
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        within("every task ends", self.tasks.wait()).await;
    }
}

/// A hub that is played offers what a spoke had offered on hub B, so that hub A knows the specification.
async fn played_holder() -> (Pair, Played, u64) {
    let pair = Pair::start().await;
    let operation = subscription("text.upper");
    let spoke = pair.spoke_on_b(std::slice::from_ref(&operation)).await;
    let played = Played::beside(&pair, "pod-a-a1").await;
    spoke.session.close("the other hub takes it").await;
    let generation = played.offers("i1", &operation).await;
    sees(&pair.a, "text.upper", generation).await;
    (pair, played, generation)
}

#[tokio::test]
async fn a_call_that_was_sent_again_is_not_denied_for_its_first_attempt() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[subscription("text.upper")]).await;
    let generation = spoke.output.generation;
    let mut played = Played::beside(&pair, "pod-b-b1").await;

    // By a directory that is behind; the comparison follows; then what `moved` leads to.
    played.call(7, 0, &spoke, generation - 1);
    played.say(
        json!({"key": 0, "way": "known", "known": {"mine": [7], "attempts": [0], "is_answer": true}}),
        None,
    );
    let (moved, _) = played.hears_of_a_call().await;
    assert_eq!(
        (&moved["way"], &moved["attempt"]),
        (&json!("moved"), &json!(0)),
        "{moved}"
    );
    played.call(7, 1, &spoke, generation);
    let running = spoke.next_call().await;

    // What the hub thinks of the call that it had not known is that it knows it.
    let (thought, _) = played.hears_of_a_call().await;
    assert_eq!(
        (&thought["way"], &thought["attempt"]),
        (&json!("mark"), &json!(1)),
        "{thought}"
    );
    spoke.respond(&running.request_id, json!("A"));
    let (answer, kind) = played.hears_of_a_call().await;
    assert_eq!(
        (&answer["attempt"], kind.as_str()),
        (&json!(1), "call.responded"),
        "{answer}"
    );
    played.end().await;
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn what_is_said_of_an_attempt_says_nothing_of_the_next() {
    let (pair, mut played, _) = played_holder().await;
    let (ticket, mut answers) = pair.a.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let (first, _) = played.hears_of_a_call().await;
    let key = first["key"].as_u64().expect("a number");
    assert_eq!(first["attempt"], 0, "{first}");
    let generation = played.offers("i1", &subscription("text.upper")).await;
    sees(&pair.a, "text.upper", generation).await;

    played.say(json!({"key": key, "way": "moved", "attempt": 0}), None);
    let (second, _) = played.hears_of_a_call().await;
    assert_eq!(
        (&second["attempt"], second["key"].as_u64()),
        (&json!(1), Some(key)),
        "{second}"
    );
    played.say(json!({"key": key, "way": "unknown", "attempt": 0}), None);
    played.say(json!({"key": key, "way": "moved", "attempt": 0}), None);
    played.item(key, 0, 5);
    played.item(key, 1, 0);

    let answer = within("the item of the second attempt", answers.recv()).await;
    assert!(matches!(answer, Some(Answer::Item(_))), "{answer:?}");
    played.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_call_that_its_holder_does_not_know_is_aborted_there_all_the_same() {
    // A hub of the version before names no attempt.
    for attempt in [json!(0), Value::Null] {
        let (pair, mut played, _) = played_holder().await;
        let (ticket, mut answers) = pair.a.dispatch(request("text.upper", json!(1)));
        ticket.expect("routed");
        let (call, _) = played.hears_of_a_call().await;

        let mut unknown = json!({"key": call["key"], "way": "unknown"});
        if !attempt.is_null() {
            unknown["attempt"] = attempt;
        }
        played.say(unknown, None);

        let Some(Answer::Failed(error)) = within("the failure", answers.recv()).await else {
            panic!("it must fail");
        };
        assert_eq!((error.code, error.delivered), (Code::Unavailable, Delivered::Maybe));
        let (abort, kind) = played.hears_of_a_call().await;
        assert_eq!(
            (&abort["key"], kind.as_str()),
            (&call["key"], "call.aborted"),
            "{abort}"
        );
        played.end().await;
        pair.end().await;
    }
}

#[tokio::test]
async fn items_that_nobody_waits_for_are_answered_with_one_abort() {
    let pair = Pair::start().await;
    let mut played = Played::beside(&pair, "pod-a-a1").await;

    for items in 0..5 {
        played.item(123, 0, items);
    }
    // An end needs none.
    let payload = json!({"requestId": "124", "output": 1});
    played.say(
        json!({"key": 124, "way": "back", "attempt": 0, "end": true}),
        Some(json!({"type": "call.responded", "id": "", "payload": payload})),
    );
    played.item(125, 0, 0);

    let aborts = [played.hears_of_a_call().await, played.hears_of_a_call().await];
    let aborts = aborts.map(|(header, kind)| (header["key"].clone(), kind));
    let abort = |key: u64| (json!(key), "call.aborted".to_owned());
    assert_eq!(aborts, [abort(123), abort(125)]);
    in_flight(&pair.a, 0).await;
    played.end().await;
    pair.end().await;
}
