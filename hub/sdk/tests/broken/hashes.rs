//! A spoke that registers anew, and a hub that knows its specifications, some of them, or none.

use alkhub_sdk::protocol::frame::encode;
use alkhub_sdk::protocol::frame::session::{HASHES, Welcome};
use alkhub_sdk::protocol::register::RefusedDetails;
use alkhub_sdk::protocol::{CallError, Dialect, Frame, RawJson};
use alkhub_sdk::{Code, Operation, Spoke};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{BrokenHub, SOON, Script, upper};

/// Operations of the spoke.
const OPERATIONS: usize = 50;

/// Bytes of a hash in a list.
const NAMED: usize = 46;

/// The hash that the hub tells of an operation.
fn hash(number: usize) -> String {
    format!("{number:043}")
}

impl Script {
    /// Takes hashes, or does not; it keeps no session.
    async fn greets(&mut self, takes_hashes: bool) {
        let hello = self.hello().await;
        assert!(hello.has(HASHES), "{hello:?}");
        let features = takes_hashes.then(|| HASHES.to_owned());
        let welcome = Welcome {
            session_id: String::new(),
            hub_id: "h".to_owned(),
            heartbeat_ms: 10_000,
            resume_ms: 0,
            max_inflight: 1,
            features: features.into_iter().collect(),
        };
        self.send(encode::welcome(&welcome)).await;
    }

    /// The next request about a registration: its operation, its id and its input.
    async fn asks(&mut self) -> (String, String, Value) {
        let frame = timeout(SOON, self.frame()).await.expect("a request in time");
        let Frame::Requested(call) = frame else {
            panic!("expected a registration: {frame:?}")
        };
        let input = call.input.expect("it has one").to().expect("an object");
        (call.operation.to_string(), call.request_id.to_string(), input)
    }

    /// The next registration: its id and what it offers.
    async fn offered(&mut self) -> (String, Vec<Value>) {
        let (operation, id, mut input) = self.asks().await;
        assert_eq!(operation, "hub.register");
        let Value::Array(operations) = input["operations"].take() else {
            panic!("{input}")
        };
        (id, operations)
    }

    /// Accepts what is offered, and tells the hashes.
    async fn accepts(&mut self, id: &str, offered: &[Value]) {
        let results = offered.iter().map(|offered| match &offered["name"] {
            Value::String(name) => {
                let number = name.trim_start_matches(char::is_alphabetic).parse().expect("numbered");
                json!({ "name": format!("text.{name}"), "result": "registered", "hash": hash(number) })
            }
            _ => json!({ "name": "text.known", "result": "registered" }),
        });
        let results: Vec<Value> = results.collect();
        let data = json!({
            "spokeId": "text", "instanceId": "i", "generation": 1, "hubId": "h", "heartbeatMs": 10_000,
            "operations": results,
        });
        self.respond(id, &data.to_string()).await;
    }

    /// Says that it does not know these.
    async fn knows_not(&mut self, id: &str, unknown: &[String]) {
        let details = RefusedDetails {
            unknown: unknown.to_vec(),
            ..RefusedDetails::default()
        };
        let mut error = CallError::new(Code::NotFound, "they are not known");
        error.details = RawJson::from_value(&details).ok();
        self.send(encode::call_error(Dialect::Id, id, &error)).await;
    }
}

/// A spoke that a hub has told its hashes, and whose connection is lost then.
async fn told(hub: &BrokenHub, operations: usize) -> (Spoke, usize) {
    let mut spoke = Spoke::builder(&hub.url).token("alk_test").name("text").sessions(1);
    for number in 0..operations {
        let operation = Operation::query(&format!("text.op{number}"), upper);
        spoke = spoke.operation(operation.description("An operation of about the usual size, which a person can read"));
    }
    let (spoke, (bytes, script)) = tokio::join!(spoke.start(), async {
        let mut script = hub.accept().await;
        script.greets(true).await;
        let (id, offered) = script.offered().await;
        script.accepts(&id, &offered).await;
        let bytes = offered.iter().map(|spec| spec.to_string().len()).sum();
        (bytes, script)
    });
    // Not before the spoke has shown that it is registered.
    drop(script);
    (spoke.expect("registered"), bytes)
}

/// A spoke with `text.op0` and its hub, which takes hashes and updates or does not.
async fn registered(hub: &BrokenHub, takes: bool) -> (Spoke, Script) {
    let spoke = Spoke::builder(&hub.url).token("alk_test").name("text").sessions(1);
    let spoke = spoke
        .operation(Operation::query("text.op0", upper))
        .spawn()
        .expect("valid settings");
    let mut script = hub.accept().await;
    script.greets(takes).await;
    let (id, offered) = script.offered().await;
    script.accepts(&id, &offered).await;
    let mut status = spoke.status();
    let there = |status: &alkhub_sdk::Status| matches!(status, alkhub_sdk::Status::Registered(_));
    timeout(SOON, status.wait_for(there))
        .await
        .expect("in time")
        .expect("it lives");
    (spoke, script)
}

#[tokio::test]
async fn what_a_hub_has_told_the_hash_of_is_named_by_it_from_then_on() {
    let hub = BrokenHub::start().await;
    let (_spoke, whole) = told(&hub, OPERATIONS).await;

    let mut script = hub.accept().await;
    script.greets(true).await;
    let (id, named) = script.offered().await;
    script.accepts(&id, &named).await;

    let hashes: Vec<Value> = (0..OPERATIONS).map(|number| json!(hash(number))).collect();
    assert_eq!(named, hashes);
    let by_hash = serde_json::to_string(&named).expect("JSON").len();
    assert!(by_hash <= NAMED * OPERATIONS + 1, "{by_hash}");
    assert!(by_hash * 5 < whole, "{by_hash} of {whole}");
}

#[tokio::test]
async fn what_a_hub_does_not_know_is_sent_whole_and_the_rest_is_not() {
    let hub = BrokenHub::start().await;
    let (_spoke, _) = told(&hub, 3).await;

    let mut script = hub.accept().await;
    script.greets(true).await;
    let (id, _) = script.offered().await;
    script.knows_not(&id, &[hash(1)]).await;
    let (id, mixed) = script.offered().await;
    assert_eq!(
        (&mixed[0], &mixed[1]["name"], &mixed[2]),
        (&json!(hash(0)), &json!("op1"), &json!(hash(2)))
    );
    // It has forgotten the others meanwhile.
    script.knows_not(&id, &[hash(0), hash(2)]).await;
    let (id, whole) = script.offered().await;
    script.accepts(&id, &whole).await;

    assert!(whole.iter().all(Value::is_object), "{whole:?}");
    drop(script);
    let mut script = hub.accept().await;
    script.greets(true).await;
    let (_, named) = script.offered().await;
    assert!(
        named.iter().all(Value::is_string),
        "the hashes are told anew: {named:?}"
    );
}

#[tokio::test]
async fn a_hub_that_takes_no_hashes_is_sent_none() {
    let hub = BrokenHub::start().await;
    let (_spoke, _) = told(&hub, 2).await;
    let mut script = hub.accept().await;
    script.greets(false).await;
    let (_, whole) = script.offered().await;
    assert!(whole.iter().all(Value::is_object), "{whole:?}");
    drop(script);

    // It knows no `__hello` at all.
    let mut script = hub.accept().await;
    script.hello().await;
    let refused = CallError::new(Code::Unsupported, "`__hello`?");
    script.send(encode::refused(&refused, None)).await;
    let (_, whole) = script.offered().await;
    assert!(whole.iter().all(Value::is_object), "{whole:?}");
}

#[tokio::test]
async fn a_change_is_told_alone_to_a_hub_that_knows_updates_and_else_with_all_the_rest() {
    let hub = BrokenHub::start().await;
    for takes in [true, false] {
        let (spoke, mut script) = registered(&hub, takes).await;

        let remove = vec!["text.op0".parse().expect("valid")];
        let (changed, ()) = tokio::join!(spoke.update(vec![Operation::query("text.op1", upper)], remove), async {
            let (operation, id, input) = script.asks().await;
            let whole = if takes {
                assert_eq!(
                    (operation.as_str(), &input["remove"]),
                    ("hub.register__2Eupdate", &json!(["text.op0"]))
                );
                &input["add"]
            } else {
                assert_eq!(operation, "hub.register");
                &input["operations"]
            };
            let whole = whole.as_array().expect("a list");
            assert_eq!((whole.len(), &whole[0]["name"]), (1, &json!("op1")));
            // Until it is answered, calls may be of before.
            script.call("r1", "text.op0", "\"a\"").await;
            let answered = script.frame().await;
            assert!(matches!(answered, Frame::Responded { .. }), "{answered:?}");
            script.accepts(&id, whole).await;
        });

        changed.expect("changed");
        script.call("r2", "text.op0", "\"a\"").await;
        assert_eq!(script.failed().await.code, Code::OperationNotFound);
        script.call("r3", "text.op1", "\"a\"").await;
        assert!(matches!(script.frame().await, Frame::Responded { .. }));
    }
}

#[tokio::test]
async fn a_change_that_nobody_waits_for_is_told_all_the_same() {
    let hub = BrokenHub::start().await;
    let (spoke, mut script) = registered(&hub, true).await;

    // It is given up before the hub has answered, which it does not then.
    tokio::select! {
        told = spoke.add(Operation::query("text.op1", upper)) => panic!("nobody has answered: {told:?}"),
        asked = script.asks() => assert_eq!(asked.0, "hub.register__2Eupdate"),
    }

    let (_, named) = script.offered().await;
    assert_eq!((&named[0], &named[1]["name"]), (&json!(hash(0)), &json!("op1")));
}
