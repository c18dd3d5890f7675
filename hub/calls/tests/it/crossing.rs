//! Messages between two hubs cross, or a hub starts afresh: the test itself plays one of the hubs.

use alkhub_calls::{CallAnswer, Outbox, Registration};
use alkhub_config::{BudgetConfig, EventsConfig};
use alkhub_hub_cluster::{Class, Cluster, DirectoryEntry, Incoming, LinkState, OfferedOperation, PeerEvent};
use alkhub_protocol::register::RegisterOutput;
use alkhub_protocol::{CallRequest, Code, Delivered, HubId, OperationSpec, SpecHash};
use alkhub_test_support::{Host, comes_to, until, within};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    ChecksHeld, Spoke, admin, cluster, large_output, peer, query, record, registration, request, subscription,
    with_one_thread_for_checks,
};
use crate::pair::{Pair, in_flight, sees};
use crate::sessions::cut;

/// The id of the hub that the test plays.
const PLAYED: &str = "pod-c-c1";

/// A hub whose every message the test decides.
struct Played {
    cluster: Cluster,
    incoming: Incoming,
    /// The real hub to which it sends.
    to: HubId,
    host: Host,
}

/// A message of the real hub about a call.
#[derive(Debug, PartialEq, Eq)]
struct HubMessage {
    /// The first word of the line.
    word: String,
    key: u64,
    /// The attempt, if the message is about one.
    attempt: Option<u8>,
    /// The type of the frame.
    frame: String,
    /// The spoke that should answer.
    target: Option<String>,
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
        let (_, _, cluster) = cluster(&config, &hub, &host, (&BudgetConfig::default(), None));
        comes_to(
            "the link is up",
            &cluster.link().expect("there is Redis"),
            LinkState::is_up,
        )
        .await;
        Self {
            incoming: cluster.incoming().expect("asked for once"),
            cluster,
            to: to.parse().expect("a hub's id"),
            host,
        }
    }

    /// Sends a line, with a frame if one belongs to it.
    fn say(&self, line: &str, frame: Option<&Value>) {
        self.say_of(line, &frame.map_or_else(String::new, Value::to_string));
    }

    /// Sends a line, and what follows it.
    fn say_of(&self, line: &str, rest: &str) {
        let payload: [&[u8]; 3] = [line.as_bytes(), b"\n", rest.as_bytes()];
        let sent = self.cluster.conduits().send(&self.to, Class::Control, &payload);
        sent.expect("nothing of this class is refused");
    }

    /// Sends a call to a registration.
    fn call(&self, key: u64, spoke: &Spoke) {
        self.call_as((key, 0), spoke, &json!({}));
    }

    /// Sends an attempt of a call, with more members in its frame.
    fn call_as(&self, (key, attempt): (u64, u8), spoke: &Spoke, more: &Value) {
        self.call_with((key, attempt), spoke, "", more);
    }

    /// Sends an attempt of a call that was lost with a spoke once before.
    fn call_after_loss(&self, (key, attempt): (u64, u8), spoke: &Spoke) {
        self.call_with((key, attempt), spoke, " lost", &json!({}));
    }

    fn call_with(&self, (key, attempt): (u64, u8), spoke: &Spoke, words: &str, more: &Value) {
        let (instance, generation) = (&spoke.output.instance_id, spoke.output.generation);
        let mut payload = json!({"requestId": key.to_string(), "operationId": "text.upper", "input": 1});
        let members = payload.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        let id = "0199c2a0-0000-7000-8000-000000000001";
        self.say(
            &format!("call {key} {attempt} {id} {id} - {generation} text {instance}{words}"),
            Some(&json!({"type": "call.requested", "id": "", "payload": payload})),
        );
    }

    /// Answers a call with an item.
    fn item(&self, key: u64, attempt: u8, item: impl Into<Value>) {
        let item = item.into();
        let payload = json!({"requestId": key.to_string(), "output": item});
        self.say(
            &format!("answer {key} {attempt}"),
            Some(&json!({"type": "call.responded", "id": "", "payload": payload})),
        );
    }

    /// Says that a call is lost with its spoke.
    fn loses(&self, key: u64, attempt: u8) {
        let payload = json!({
            "requestId": key.to_string(), "code": "SPOKE_LOST", "message": "gone", "delivered": "maybe",
        });
        self.say(
            &format!("answer {key} {attempt}"),
            Some(&json!({"type": "call.error", "id": "", "payload": payload})),
        );
    }

    /// Forgets everything between it and the real hub, and lets that hub know.
    fn begin_anew(&self) {
        self.cluster.conduits().forget(&self.to);
        self.say("abort 0", None);
    }

    /// Waits while reading and discarding what the other hub says: reading is what keeps a conduit going.
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

    /// The next message, even if the conduit breaks before it.
    async fn receive(&mut self) -> HubMessage {
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
        HubMessage {
            word: word().expect("a word"),
            key: word().expect("a key").parse().expect("a number"),
            attempt: word().and_then(|attempt| attempt.parse().ok()),
            frame: frame["type"].as_str().unwrap_or_default().to_owned(),
            target: frame["payload"]["target"]["spokeId"].as_str().map(str::to_owned),
        }
    }

    /// The next message about a call, since other hubs may ask about registrations in the meantime.
    async fn receive_about_a_call(&mut self) -> HubMessage {
        loop {
            let received = self.receive().await;
            if received.word != "ask" {
                return received;
            }
        }
    }

    /// Registers an instance of `text`, which is also only played.
    async fn offers(&self, instance: &str, operation: &Value) -> u64 {
        self.offers_slots(instance, operation, None).await
    }

    /// The same for one that takes so many calls at once.
    async fn offers_slots(&self, instance: &str, operation: &Value, concurrency: Option<u32>) -> u64 {
        let spec: OperationSpec = serde_json::from_value(operation.clone()).expect("a specification");
        let offered = OfferedOperation {
            name: "text.upper".parse().expect("valid"),
            hash: SpecHash::of(&spec).to_string(),
        };
        let entry = DirectoryEntry {
            concurrency,
            ..record(PLAYED, instance, vec![offered])
        };
        let registered = self.cluster.register_unless(&CancellationToken::new(), entry).await;
        registered.expect("the hub lives")
    }

    async fn end(self) {
        self.host.end().await;
    }
}

/// A played hub that offers what a spoke had offered on hub B, so that hub A knows the specification.
async fn played_holder() -> (Pair, Played, u64) {
    played_holder_of(&subscription("text.upper"), None).await
}

async fn played_holder_of(operation: &Value, concurrency: Option<u32>) -> (Pair, Played, u64) {
    let pair = Pair::start().await;
    let spoke = pair.spoke_on_b(std::slice::from_ref(operation)).await;
    let played = Played::beside(&pair, "pod-a-a1").await;
    spoke.registration.close("the other hub takes it").await;
    let generation = played.offers_slots("i1", operation, concurrency).await;
    sees(&pair.a, "text.upper", generation).await;
    (pair, played, generation)
}

/// A call from hub A that reaches a played hub, with its key.
async fn called(pair: &Pair, played: &mut Played) -> (u64, tokio::sync::mpsc::Receiver<CallAnswer>) {
    let (ticket, answers) = pair.a.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = played.receive().await;
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
    let second = played.receive().await;
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
    // The call may have been sent after the break, and the holder may be running it.
    let aborted = played.receive().await;
    assert_eq!((aborted.word.as_str(), aborted.key), ("abort", ended), "{aborted:?}");
    // What comes later belongs to a fresh start.
    let (key, mut answers) = called(&pair, &mut played).await;
    played.item(key, 0, 7);
    let answer = played.reads_until(within("an item", answers.recv())).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    played.end().await;
    pair.end().await;
}

#[test]
fn an_item_that_waits_for_its_check_comes_before_the_end_by_a_conduit_that_broke_behind_it() {
    with_one_thread_for_checks(async {
        let (pair, mut played, _) = played_holder().await;
        let (key, mut answers) = called(&pair, &mut played).await;
        let before = pair.a.metric("alkhub_budget_bytes");
        let held = ChecksHeld::now();
        played.item(key, 0, large_output());
        played.reads_until(pair.a.has_unchecked(1, before)).await;

        played.begin_anew();
        let broken = until("the conduit is broken", || async {
            match pair.a.metric("alkhub_conduit_breaks_total") {
                0.0 => Err(0.0),
                _ => Ok(()),
            }
        });
        played.reads_until(broken).await;
        drop(held);

        let item = played.reads_until(within("the item", answers.recv())).await;
        assert!(matches!(item, Some(CallAnswer::Item(_))), "{item:?}");
        let failure = played.reads_until(within("the failure", answers.recv())).await;
        let Some(CallAnswer::Failed(error)) = failure else {
            panic!("{failure:?}");
        };
        assert_eq!((error.code, error.delivered), (Code::Unavailable, Delivered::Yes));
        let aborted = played.receive_about_a_call().await;
        assert_eq!((aborted.word.as_str(), aborted.key), ("abort", key), "{aborted:?}");
        played.end().await;
        pair.end().await;
    });
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

/// A played hub that hub A knows in addition to hub B.
async fn third(pair: &Pair) -> Played {
    let played = Played::beside(pair, "pod-a-a1").await;
    until("hub A knows the other two", async || {
        match pair.a.cluster.pods().len() {
            3 => Ok(()),
            n => Err(format!("{n} hubs")),
        }
    })
    .await;
    played
}

/// Registers `text.upper` on hub A; returns the answer and the registration.
async fn registered(pair: &Pair, outbox: Outbox) -> (RegisterOutput, Registration) {
    let input = serde_json::from_value(registration("text", &[subscription("text.upper")])).expect("valid");
    let registered = pair.a.calls.register(&admin(), input, outbox).await;
    registered.expect("registers")
}

/// Hubs ask each other who can call a registration; what was asked over a broken conduit is asked again.
#[tokio::test]
async fn a_hub_that_began_anew_is_asked_again_whether_it_can_call_a_registration() {
    let pair = Pair::start().await;
    let mut played = third(&pair).await;
    let (outbox, _outgoing) = peer();
    let (output, registration) = registered(&pair, outbox).await;
    let asking = pair.a.calls.visible(&registration);

    let answering = async {
        let asked = played.receive().await;
        played.begin_anew();
        let again = played.receive().await;
        played.say(&format!("callable {} yes", again.key), None);
        played.reads_until(std::future::pending::<()>()).await;
        (asked, again)
    };
    let lagging = tokio::select! {
        lagging = asking => lagging,
        seen = answering => unreachable!("it reads for ever after {seen:?}"),
    };

    assert_eq!((lagging, output.lagging_hubs), (Vec::new(), Vec::new()));
    played.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_hub_that_says_that_it_cannot_call_a_registration_is_named_at_once_and_one_that_says_nothing_later() {
    let pair = Pair::start().await;
    let mut played = third(&pair).await;
    let (outbox, _outgoing) = peer();
    let (_, registration) = registered(&pair, outbox).await;

    for says_so in [true, false] {
        let began = tokio::time::Instant::now();
        let asking = pair.a.calls.visible(&registration);
        let answering = async {
            let asked = played.receive().await;
            if says_so {
                played.say(&format!("callable {} no", asked.key), None);
            }
            played.reads_until(std::future::pending::<()>()).await;
        };
        let lagging = tokio::select! {
            lagging = asking => lagging,
            () = answering => unreachable!("it reads for ever"),
        };
        let named: Vec<_> = lagging.iter().map(ToString::to_string).collect();
        assert_eq!(named, [PLAYED]);
        assert_eq!(began.elapsed() < std::time::Duration::from_secs(1), says_so);
    }
    played.end().await;
    pair.end().await;
}

/// A spoke on hub B, and a played hub that calls it.
async fn played_caller() -> (Pair, Played, Spoke) {
    let pair = Pair::start().await;
    let spoke = pair.spoke_on_b(&[subscription("text.upper")]).await;
    let played = Played::beside(&pair, "pod-b-b1").await;
    (pair, played, spoke)
}

#[tokio::test]
async fn a_call_that_was_sent_again_or_is_for_one_spoke_stays_where_it_waits() {
    let (pair, mut played, mut away) = played_caller().await;
    cut(&mut away);
    played.call_as((7, 1), &away, &json!({}));
    played.call_as((8, 0), &away, &json!({"target": {"spokeId": "text"}}));
    played.reads_until(in_flight(&pair.b, 2)).await;

    let other = Spoke::connect(&pair.b, "other", &[subscription("text.upper")]).await;

    assert_eq!((away.outbox.in_flight(), away.outbox.queued()), (2, 2));
    assert_eq!(other.outbox.in_flight(), 0);
    // A further call is sent away, because its hub may send it again.
    played.call(9, &away);
    let received = played.receive_about_a_call().await;
    assert_eq!(
        (received.word.as_str(), received.key, received.attempt),
        ("moved", 9, Some(0))
    );
    played.end().await;
    drop((away, other));
    pair.end().await;
}

/// Of the times that it was sent again one was for a loss: nobody has given it back yet.
#[tokio::test]
async fn a_query_that_was_sent_again_after_a_loss_is_given_back_like_one_that_was_not() {
    let (pair, mut played, mut away) = played_caller().await;
    cut(&mut away);
    played.call_after_loss((7, 1), &away);
    played.reads_until(in_flight(&pair.b, 1)).await;

    let other = Spoke::connect(&pair.b, "other", &[subscription("text.upper")]).await;

    let waited = played.receive_about_a_call().await;
    played.call_after_loss((8, 1), &away);
    let came = played.receive_about_a_call().await;
    for (received, key) in [(waited, 7), (came, 8)] {
        let moved = (received.word.as_str(), received.key, received.attempt);
        assert_eq!(moved, ("moved", key, Some(1)));
    }
    played.call_after_loss((9, 2), &away);
    played.reads_until(in_flight(&pair.b, 1)).await;
    assert_eq!((away.outbox.queued(), other.outbox.in_flight()), (1, 0));
    played.end().await;
    drop((away, other));
    pair.end().await;
}

#[tokio::test]
async fn as_many_calls_are_given_back_as_another_instance_has_slots() {
    let (pair, mut played, mut away) = played_caller().await;
    cut(&mut away);
    for key in 7..10 {
        played.call(key, &away);
    }
    played.reads_until(in_flight(&pair.b, 3)).await;
    let mut offer = registration("other", &[subscription("text.upper")]);
    offer["concurrency"] = json!(1);

    let caller = admin();
    let registering = Spoke::register(&pair.b, &caller, offer, peer());
    let other = played.reads_until(registering).await.expect("registers");

    assert_eq!((away.outbox.in_flight(), other.outbox.in_flight()), (2, 0));
    played.end().await;
    drop((away, other));
    pair.end().await;
}

#[tokio::test]
async fn a_spoke_that_is_to_go_gets_from_other_hubs_what_nobody_else_can_take() {
    let (pair, mut played, mut leaving) = played_caller().await;
    leaving.outbox.set_leaving(true);
    played.call(7, &leaving);
    leaving.next_call().await;
    let mut other = Spoke::connect(&pair.b, "other", &[subscription("text.upper")]).await;

    played.call(8, &leaving);
    let received = played.receive_about_a_call().await;
    assert_eq!(
        (received.word.as_str(), received.key, received.attempt),
        ("moved", 8, Some(0))
    );
    played.call_as((8, 1), &leaving, &json!({}));
    leaving.next_call().await;
    played.call_as((9, 0), &leaving, &json!({"target": {"spokeId": "text"}}));
    leaving.next_call().await;

    assert_eq!((leaving.outbox.in_flight(), other.outbox.in_flight()), (3, 0));
    assert!(other.has_nothing());
    played.end().await;
    drop((leaving, other));
    pair.end().await;
}

/// The other instance has no free slot, so the call continues to wait where it was, and may still be taken there.
async fn goes_back_where_it_was(standing: &str) {
    let (pair, mut played, _) = played_holder().await;
    let (key, _answers) = called(&pair, &mut played).await;
    let mut offer = registration("busy", &[subscription("text.upper")]);
    offer["concurrency"] = json!(1);
    let caller = admin();
    let registering = Spoke::register(&pair.a, &caller, offer, peer());
    let mut busy = played.reads_until(registering).await.expect("registers");
    let (routed, _running) = pair.a.dispatch(request("text.upper", json!(2)));
    routed.expect("routed");
    busy.next_call().await;

    played.say_of(&format!("moved {key} 0"), standing);

    let again = played.receive_about_a_call().await;
    assert_eq!(
        (again.word.as_str(), again.key, again.attempt),
        ("call", key, Some(1)),
        "{again:?}"
    );
    assert!(busy.has_nothing());
    played.end().await;
    drop(busy);
    pair.end().await;
}

#[tokio::test]
async fn a_call_that_nobody_else_can_take_goes_back_to_the_instance_that_gave_it_away() {
    goes_back_where_it_was("ready").await;
}

#[tokio::test]
async fn it_goes_back_too_where_the_connection_of_that_instance_is_lost() {
    goes_back_where_it_was("reconnecting").await;
}

/// The call arrived there faster than the registration. From an instance whose connection is lost, nothing would fetch
/// it again.
#[tokio::test]
async fn a_call_goes_back_to_a_holder_that_is_ready_rather_than_to_an_instance_whose_connection_is_lost() {
    let (pair, mut played, _) = played_holder().await;
    let (key, _answers) = called(&pair, &mut played).await;
    let caller = admin();
    let offer = registration("away", &[subscription("text.upper")]);
    let registering = Spoke::register(&pair.a, &caller, offer, peer());
    let mut away = played.reads_until(registering).await.expect("registers");
    cut(&mut away);

    played.say_of(&format!("moved {key} 0"), "ready");

    let again = played.receive_about_a_call().await;
    assert_eq!(
        (again.word.as_str(), again.key, again.attempt),
        ("call", key, Some(1)),
        "{again:?}"
    );
    assert_eq!(away.outbox.in_flight(), 0);
    played.end().await;
    drop(away);
    pair.end().await;
}

#[tokio::test]
async fn a_holder_learns_which_spoke_is_to_answer() {
    let (pair, mut played, _) = played_holder().await;
    let wanted = CallRequest {
        target: Some("text".parse().expect("valid")),
        ..request("text.upper", json!(1))
    };

    let (ticket, _answers) = pair.a.dispatch(wanted);

    ticket.expect("routed");
    assert_eq!(played.receive_about_a_call().await.target.as_deref(), Some("text"));
    played.end().await;
    pair.end().await;
}

/// The caller's hub knows nothing of the change yet, and sends the call to the earlier registration.
#[tokio::test]
async fn a_call_that_crosses_a_change_reaches_what_is_offered_still_and_nothing_else() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[query("text.upper"), query("text.lower")]).await;
    let mut played = Played::beside(&pair, "pod-b-b1").await;
    let outbox = spoke.outbox.clone();
    let change = async |input: Value| {
        let input = serde_json::from_value(input).expect("an update");
        let updated = pair.b.calls.update(&admin(), input, outbox.clone()).await;
        updated.expect("changed").1
    };

    let first = change(json!({ "add": [query("text.new")], "remove": ["text.lower"] })).await;
    let second = change(json!({ "remove": ["text.new"] })).await;
    played.call(7, &spoke);
    let call = played.reads_until(spoke.next_call()).await;
    let third = change(json!({ "remove": ["text.upper"] })).await;
    played.call(8, &spoke);
    let moved = played.receive_about_a_call().await;
    let fourth = change(json!({ "add": [query("text.upper")] })).await;
    played.call(9, &spoke);
    let of_before = played.receive_about_a_call().await;

    assert_eq!(call.operation.as_str(), "text.upper");
    assert_eq!((moved.word.as_str(), moved.key), ("moved", 8), "{moved:?}");
    assert_eq!(
        (of_before.word.as_str(), of_before.key),
        ("moved", 9),
        "it is offered anew since"
    );
    drop((first, second, third, fourth));
    played.end().await;
    pair.end().await;
}

/// A query of hub A at the only slot of a registration that is played.
async fn query_at_a_played_holder() -> (Pair, Played, u64, tokio::sync::mpsc::Receiver<CallAnswer>) {
    let (pair, mut played, _) = played_holder_of(&query("text.upper"), Some(1)).await;
    let (key, answers) = called(&pair, &mut played).await;
    (pair, played, key, answers)
}

/// The instance registers again, and hub A knows it.
async fn registers_anew(pair: &Pair, played: &Played) {
    let generation = played.offers_slots("i1", &query("text.upper"), Some(1)).await;
    sees(&pair.a, "text.upper", generation).await;
}

/// The query comes once more, and the answer to that reaches its caller.
async fn runs_once_more(
    (pair, mut played): (Pair, Played),
    key: u64,
    mut answers: tokio::sync::mpsc::Receiver<CallAnswer>,
) {
    let again = played.receive_about_a_call().await;
    assert_eq!(
        (again.word.as_str(), again.key, again.attempt),
        ("call", key, Some(1)),
        "{again:?}"
    );
    played.item(key, 1, 7);
    let answer = played.reads_until(within("the output", answers.recv())).await;
    let Some(CallAnswer::Item(item)) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(item.to::<Value>().expect("JSON")["data"], 7);
    let resent = pair.a.metric("alkhub_calls_resent_total");
    assert!((resent - 1.0).abs() < f64::EPSILON, "{resent}");
    played.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_query_does_not_take_the_slot_from_itself_when_its_spoke_has_registered_anew() {
    let (pair, played, key, answers) = query_at_a_played_holder().await;
    registers_anew(&pair, &played).await;

    played.loses(key, 0);

    runs_once_more((pair, played), key, answers).await;
}

#[tokio::test]
async fn a_query_whose_loss_is_known_before_its_spoke_has_registered_anew_waits_for_that() {
    let (pair, played, key, answers) = query_at_a_played_holder().await;
    played.loses(key, 0);
    played.loses(key, 0);

    registers_anew(&pair, &played).await;

    runs_once_more((pair, played), key, answers).await;
}

#[tokio::test]
async fn a_query_that_waits_for_its_spoke_to_register_anew_can_be_ended() {
    let (pair, mut played, _) = played_holder_of(&query("text.upper"), Some(1)).await;
    let (ticket, _answers) = pair.a.dispatch(request("text.upper", json!(1)));
    let ticket = ticket.expect("routed");
    let key = played.receive().await.key;
    // What is said in between is read in order.
    played.loses(key, 0);
    let before = pair.a.metric("alkhub_relay_messages_total");
    played.loses(key, 0);
    until("hub A has read it", async || {
        let read = pair.a.metric("alkhub_relay_messages_total");
        if read > before { Ok(()) } else { Err(read) }
    })
    .await;

    assert!(ticket.cancel("for the test"));

    registers_anew(&pair, &played).await;
    let (next, _running) = pair.a.dispatch(request("text.upper", json!(2)));
    next.expect("its slot is free");
    let received = played.receive_about_a_call().await;
    assert_eq!((received.word.as_str(), received.attempt), ("call", Some(0)));
    assert_ne!(received.key, key);
    played.end().await;
    pair.end().await;
}

/// Nobody registers anew.
#[tokio::test]
async fn a_query_that_has_waited_for_its_spoke_in_vain_fails_as_it_would_have_at_once() {
    let (pair, mut played, key, mut answers) = query_at_a_played_holder().await;

    played.loses(key, 0);

    let answer = played.reads_until(within("the error", answers.recv())).await;
    let Some(CallAnswer::Failed(error)) = answer else {
        panic!("{answer:?}");
    };
    let told = (&error.code, error.message.as_ref(), error.delivered);
    assert_eq!(told, (&Code::SpokeLost, "gone", Delivered::Maybe));
    played.end().await;
    pair.end().await;
}
