//! Messages between two hubs cross, or a hub begins anew: one of the hubs is played by the test.

use alkhub_calls::CallAnswer;
use alkhub_config::EventsConfig;
use alkhub_hub_cluster::{Class, Cluster, Incoming, LinkState, OfferedOperation, PeerEvent};
use alkhub_protocol::{Code, Delivered, HubId, OperationSpec};
use alkhub_store::SpecHash;
use alkhub_test_support::{Host, comes_to, within};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fixture::{Spoke, cluster, record, request, subscription};
use crate::pair::{Pair, in_flight, sees};

/// The hub that the test plays.
const PLAYED: &str = "pod-c-c1";

/// A hub of which the test says each word.
struct Played {
    cluster: Cluster,
    incoming: Incoming,
    /// To the real hub.
    to: HubId,
    host: Host,
}

/// What the real hub says of a call.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    /// The first word of the line.
    word: String,
    key: u64,
    /// The attempt, where the message is about one.
    attempt: Option<u8>,
    /// The type of the frame.
    frame: String,
}

// === impl Played ===

impl Played {
    async fn beside(pair: &Pair, to: &str) -> Self {
        let host = Host::default();
        let config = EventsConfig {
            redis_url: Some(pair.redis.url().into()),
            ..EventsConfig::default()
        };
        let hub = PLAYED.parse().expect("a hub's id");
        let (_, cluster) = cluster(&config, &hub, &host);
        comes_to("the link is up", &cluster.link(), |state| *state == LinkState::Up).await;
        Self {
            incoming: cluster.incoming().expect("asked for once"),
            cluster,
            to: to.parse().expect("a hub's id"),
            host,
        }
    }

    /// Says something: a line, and a frame where one belongs to it.
    fn say(&self, line: &str, frame: Option<&Value>) {
        let frame = frame.map_or_else(String::new, Value::to_string);
        let payload: [&[u8]; 3] = [line.as_bytes(), b"\n", frame.as_bytes()];
        let sent = self.cluster.conduits().send(&self.to, Class::Control, &payload);
        sent.expect("nothing of this class is refused");
    }

    /// Sends a call to a registration.
    fn call(&self, key: u64, spoke: &Spoke) {
        let (instance, generation) = (&spoke.output.instance_id, spoke.output.generation);
        let payload = json!({"requestId": key.to_string(), "operationId": "text.upper", "input": 1});
        let id = "0199c2a0-0000-7000-8000-000000000001";
        self.say(
            &format!("call {key} 0 {id} {id} - {generation} text {instance}"),
            Some(&json!({"type": "call.requested", "id": "", "payload": payload})),
        );
    }

    /// Answers a call with an item.
    fn item(&self, key: u64, attempt: u8, item: u64) {
        let payload = json!({"requestId": key.to_string(), "output": item});
        self.say(
            &format!("answer {key} {attempt}"),
            Some(&json!({"type": "call.responded", "id": "", "payload": payload})),
        );
    }

    /// Forgets everything between it and the real hub, and lets that know.
    fn begin_anew(&self) {
        self.cluster.conduits().forget(&self.to);
        self.say("abort 0", None);
    }

    /// Waits while it reads, and passes over, what the other hub says: that is what keeps a conduit going.
    async fn reads_until<T>(&mut self, done: impl Future<Output = T>) -> T {
        let reading = async {
            loop {
                self.incoming.next().await;
            }
        };
        tokio::select! {
            done = done => done,
            () = reading => unreachable!("it reads for ever"),
        }
    }

    /// The next message, whatever breaks before it.
    async fn hears(&mut self) -> Heard {
        let message = async {
            loop {
                if let PeerEvent::Message { payload, .. } = self.incoming.next().await {
                    return payload;
                }
            }
        };
        let payload = within("a message of the other hub", message).await;
        let text = String::from_utf8(payload.to_vec()).expect("text");
        let (line, frame) = text.split_once('\n').expect("a line");
        let mut words = line.split(' ');
        let mut word = || words.next().map(str::to_owned);
        let frame = serde_json::from_str::<Value>(frame).unwrap_or_default();
        Heard {
            word: word().expect("a word"),
            key: word().expect("a key").parse().expect("a number"),
            attempt: word().map(|attempt| attempt.parse().expect("a number")),
            frame: frame["type"].as_str().unwrap_or_default().to_owned(),
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
        self.host.end().await;
    }
}

/// A hub that is played offers what a spoke had offered on hub B, so that hub A knows the specification.
async fn played_holder() -> (Pair, Played, u64) {
    let pair = Pair::start().await;
    let operation = subscription("text.upper");
    let spoke = pair.spoke_on_b(std::slice::from_ref(&operation)).await;
    let played = Played::beside(&pair, "pod-a-a1").await;
    spoke.registration.close("the other hub takes it").await;
    let generation = played.offers("i1", &operation).await;
    sees(&pair.a, "text.upper", generation).await;
    (pair, played, generation)
}

/// A call of hub A at a hub that is played, with its key.
async fn called(pair: &Pair, played: &mut Played) -> (u64, tokio::sync::mpsc::Receiver<CallAnswer>) {
    let (ticket, answers) = pair.a.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = played.hears().await;
    assert_eq!((call.word.as_str(), call.attempt), ("call", Some(0)), "{call:?}");
    (call.key, answers)
}

#[tokio::test]
async fn what_is_said_of_an_attempt_says_nothing_of_the_next() {
    let (pair, mut played, _) = played_holder().await;
    let (key, mut answers) = called(&pair, &mut played).await;
    let generation = played.offers("i1", &subscription("text.upper")).await;
    sees(&pair.a, "text.upper", generation).await;

    played.say(&format!("moved {key} 0"), None);
    let second = played.hears().await;
    assert_eq!(
        (second.word.as_str(), second.key, second.attempt),
        ("call", key, Some(1))
    );
    played.say(&format!("moved {key} 0"), None);
    played.item(key, 0, 5);
    played.item(key, 1, 7);

    let answer = played
        .reads_until(within("the item of the second attempt", answers.recv()))
        .await;
    let Some(CallAnswer::Item(item)) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(item.to::<Value>().expect("JSON")["data"], 7);
    played.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_caller_waits_for_no_hub_that_began_anew() {
    let (pair, mut played, _) = played_holder().await;
    let (ended, mut answers) = called(&pair, &mut played).await;

    played.begin_anew();

    let failure = played.reads_until(within("the failure", answers.recv())).await;
    let Some(CallAnswer::Failed(error)) = failure else {
        panic!("it must fail");
    };
    assert_eq!((error.code, error.delivered), (Code::Unavailable, Delivered::Maybe));
    // It may have been sent after the break, and the holder may run it.
    let aborted = played.hears().await;
    assert_eq!((aborted.word.as_str(), aborted.key), ("abort", ended), "{aborted:?}");
    // What comes later is of a new beginning.
    let (key, mut answers) = called(&pair, &mut played).await;
    played.item(key, 0, 7);
    let answer = played.reads_until(within("an item", answers.recv())).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    played.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_spoke_works_for_no_hub_that_began_anew() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[subscription("text.upper")]).await;
    let mut played = Played::beside(&pair, "pod-b-b1").await;
    played.call(7, &spoke);
    let running = spoke.next_call().await;

    played.begin_anew();

    let aborted = played.reads_until(spoke.next_abort()).await;
    assert_eq!(aborted, running.request_id);
    in_flight(&pair.b, 0).await;
    played.end().await;
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn answers_that_nobody_waits_for_change_nothing() {
    let (pair, mut played, _) = played_holder().await;
    for key in 100..105 {
        played.item(key, 0, 1);
        played.say(&format!("moved {key} 0"), None);
    }

    let (key, mut answers) = called(&pair, &mut played).await;
    played.item(key, 0, 1);

    let answer = played.reads_until(within("an item", answers.recv())).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    in_flight(&pair.a, 1).await;
    played.end().await;
    pair.end().await;
}
