//! What a spoke sends of its specifications to a hub of an older version, which accepts no hashes, and to one that
//! forgets what it has just said it knows.
//!
//! What hubs of this version know, and are sent, is in `tests/hub/hashes.rs`.

use alkhub_sdk::protocol::frame::encode;
use alkhub_sdk::protocol::frame::session::{HASHES, Welcome};
use alkhub_sdk::protocol::register::RefusedDetails;
use alkhub_sdk::protocol::{CallError, Dialect, Frame, RawJson};
use alkhub_sdk::{Code, Operation, Spoke};
use serde_json::{Value, json};

use crate::{BrokenHub, Script, upper};

/// The hash that the hub tells of an operation.
fn hash(number: usize) -> String {
    format!("{number:043}")
}

impl Script {
    /// Grants hashes, or does not; it keeps no session.
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

    /// The next registration: its id and what it offers.
    async fn offered(&mut self) -> (String, Vec<Value>) {
        let (id, mut input) = self.registers().await;
        let Value::Array(operations) = input["operations"].take() else {
            panic!("{input}")
        };
        (id, operations)
    }

    /// Accepts what is offered, and tells the spoke its hashes.
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

/// A spoke that was told its hashes by a hub, and then loses its connection.
async fn told(hub: &BrokenHub, operations: usize) -> Spoke {
    let mut spoke = Spoke::builder(&hub.url).token("alk_test").name("text").sessions(1);
    for number in 0..operations {
        spoke = spoke.operation(Operation::query(&format!("text.op{number}"), upper));
    }
    let (spoke, script) = tokio::join!(spoke.start(), async {
        let mut script = hub.accept().await;
        script.greets(true).await;
        let (id, offered) = script.offered().await;
        script.accepts(&id, &offered).await;
        script
    });
    // Not before the spoke has shown that it is registered.
    drop(script);
    spoke.expect("registered")
}

#[tokio::test]
async fn what_a_hub_has_forgotten_when_the_rest_comes_is_sent_whole() {
    let hub = BrokenHub::start().await;
    let _spoke = told(&hub, 3).await;

    let mut script = hub.accept().await;
    script.greets(true).await;
    let (id, _) = script.offered().await;
    script.knows_not(&id, &[hash(1)]).await;
    let (id, _) = script.offered().await;
    script.knows_not(&id, &[hash(0), hash(2)]).await;
    let (_, whole) = script.offered().await;

    assert!(whole.iter().all(Value::is_object), "{whole:?}");
}

#[tokio::test]
async fn a_hub_that_takes_no_hashes_is_sent_none() {
    let hub = BrokenHub::start().await;
    let _spoke = told(&hub, 2).await;
    let mut script = hub.accept().await;
    script.greets(false).await;
    let (_, whole) = script.offered().await;
    assert!(whole.iter().all(Value::is_object), "{whole:?}");
    drop(script);

    // It does not know `__hello` at all.
    let mut script = hub.accept().await;
    script.hello().await;
    let refused = CallError::new(Code::Unsupported, "`__hello`?");
    script.send(encode::refused(&refused, None)).await;
    let (_, whole) = script.offered().await;
    assert!(whole.iter().all(Value::is_object), "{whole:?}");
}

#[tokio::test]
async fn a_hub_that_knows_no_updates_is_told_of_a_change_with_all_the_rest() {
    let hub = BrokenHub::start().await;
    let spoke = Spoke::builder(&hub.url).token("alk_test").name("text").sessions(1);
    let spoke = spoke.operation(Operation::query("text.op0", upper));
    let (spoke, mut script) = tokio::join!(spoke.start(), async {
        let mut script = hub.accept().await;
        script.greets(false).await;
        let (id, offered) = script.offered().await;
        script.accepts(&id, &offered).await;
        script
    });
    let spoke = spoke.expect("registered");

    let remove = vec!["text.op0".parse().expect("valid")];
    let (changed, ()) = tokio::join!(spoke.update(vec![Operation::query("text.op1", upper)], remove), async {
        let (id, whole) = script.offered().await;
        assert_eq!((whole.len(), &whole[0]["name"]), (1, &json!("op1")));
        // Until it is answered, calls may be based on the previous registration.
        script.call("r1", "text.op0", "\"a\"").await;
        let answered = script.frame().await;
        assert!(matches!(answered, Frame::Responded { .. }), "{answered:?}");
        script.accepts(&id, &whole).await;
    });

    changed.expect("changed");
    script.call("r2", "text.op0", "\"a\"").await;
    assert_eq!(script.failed().await.code, Code::OperationNotFound);
    script.call("r3", "text.op1", "\"a\"").await;
    assert!(matches!(script.frame().await, Frame::Responded { .. }));
}
