//! `__hello`, and sessions that outlive their connections, as seen by a peer that knows frames and nothing else.

use std::time::Duration;

use alkhub_test_support::{RedisServer, until};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::cluster::{answers, knows_upper, pair};
use crate::harness::{TestHub, hub, hub_with};
use crate::wire::{Dialect, Wire, operation, request};

/// A peer that counts what it receives.
struct Counting {
    wire: Wire,
    key: String,
    id: String,
    received: u64,
}

// === impl Counting ===

impl Counting {
    /// Connects and gets a session.
    async fn begin(hub: &TestHub, key: &str) -> Self {
        let mut wire = Wire::connect(hub, key).await;
        let welcome = hello(&mut wire, json!({ "features": ["resume"] })).await;
        let welcome = &welcome["payload"];
        assert_eq!(welcome["features"], json!(["resume"]), "{welcome}");
        let id = welcome["sessionId"].as_str().expect("an id").to_owned();
        let key = key.to_owned();
        Self {
            wire,
            key,
            id,
            received: 0,
        }
    }

    /// The spoke `text` with `text.upper` and `text.watch`.
    async fn spoke(hub: &TestHub) -> Self {
        let (key, _) = hub.spoke_key("text").await;
        let mut spoke = Self::begin(hub, &key).await;
        spoke.register("one").await;
        spoke
    }

    async fn register(&mut self, instance: &str) {
        let operations = [
            operation("text", "upper", "mutation"),
            operation("text", "watch", "subscription"),
        ];
        let input = json!({ "instanceId": instance, "operations": operations });
        self.wire
            .call(Dialect::Successor, "register", "hub.register", input)
            .await;
        self.expect("call.responded").await;
    }

    /// The next message that counts.
    async fn next(&mut self) -> Value {
        loop {
            let message = self.wire.recv().await;
            if message["type"] != "__ack" {
                self.received += 1;
                return message;
            }
        }
    }

    /// The next message that counts, which must have this type.
    async fn expect(&mut self, kind: &str) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Cuts the connection without a word, and waits until the hub has noticed.
    async fn cut(self, hub: &TestHub) -> Lost {
        let Self {
            wire,
            key,
            id,
            received,
        } = self;
        drop(wire);
        waiting(hub, 1).await;
        Lost { key, id, received }
    }
}

/// What a peer knows about its session when its connection is lost.
#[derive(Clone)]
struct Lost {
    key: String,
    id: String,
    received: u64,
}

// === impl Lost ===

impl Lost {
    fn hello(&self) -> Value {
        json!({ "features": ["resume"], "resume": { "sessionId": self.id, "received": self.received } })
    }

    /// Comes back; also returns how many messages the hub has received.
    async fn resume(self, hub: &TestHub) -> (Counting, u64) {
        let mut wire = Wire::connect(hub, &self.key).await;
        let welcome = hello(&mut wire, self.hello()).await;
        assert_eq!(welcome["payload"]["sessionId"], self.id.as_str(), "{welcome}");
        let resumed = wire.expect("__resume").await;
        let received = resumed["payload"]["received"].as_u64().expect("a count");
        let Self { key, id, received: own } = self;
        let peer = Counting {
            wire,
            key,
            id,
            received: own,
        };
        (peer, received)
    }

    /// Comes back and is refused; returns the code and the message.
    async fn refused(&self, hub: &TestHub) -> (String, String) {
        let mut wire = Wire::connect(hub, &self.key).await;
        refusal(&mut wire, self.hello()).await
    }
}

/// Sends `__hello`; returns the `__welcome`.
async fn hello(wire: &mut Wire, payload: Value) -> Value {
    wire.send(&json!({ "type": "__hello", "id": "", "payload": payload }))
        .await;
    wire.expect("__welcome").await
}

/// Sends a `__hello` that is refused; returns the code and the message.
async fn refusal(wire: &mut Wire, payload: Value) -> (String, String) {
    wire.send(&json!({ "type": "__hello", "id": "", "payload": payload }))
        .await;
    let error = wire.expect("__error").await;
    let text = |field: &str| error["payload"][field].as_str().expect("a text").to_owned();
    (text("code"), text("message"))
}

/// Waits until this many sessions wait for their peers.
async fn waiting(hub: &TestHub, sessions: u32) {
    until("so many sessions wait for their peers", || async {
        match hub.metric("alkhub_connections{kind=\"reconnecting\"}").await {
            waiting if waiting == Some(f64::from(sessions)) => Ok(()),
            waiting => Err(format!("{waiting:?}")),
        }
    })
    .await;
}

async fn client(hub: &TestHub) -> Wire {
    let (key, _) = hub.key(&["call:text.*"]).await;
    Wire::connect(hub, &key).await
}

#[tokio::test]
async fn a_peer_that_says_hello_is_told_what_it_is_granted() {
    let hub = hub_with(|config| config.server.resume = Duration::from_secs(7)).await;
    let (mut resumable, mut plain, mut page) = (
        Wire::connect(&hub, &hub.admin).await,
        Wire::connect(&hub, &hub.admin).await,
        Wire::connect(&hub, &hub.admin).await,
    );

    let granted = hello(
        &mut resumable,
        json!({ "protocols": ["alk.v1.json"], "features": ["resume", "later"] }),
    );
    let granted = granted.await["payload"].take();
    let nothing = hello(&mut plain, json!({})).await["payload"].take();
    let pings = hello(&mut page, json!({ "features": ["ping"] })).await["payload"].take();

    let id = granted["sessionId"].as_str().expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(granted["features"], json!(["resume"]));
    assert_eq!(granted["resumeMs"], 7_000);
    assert_eq!(granted["heartbeatMs"], 10_000);
    assert!(granted["maxInflight"].as_u64().expect("a number") > 0);
    assert!(
        granted["hubId"]
            .as_str()
            .is_some_and(|named| named == hub.hub.hub_id().as_str())
    );
    assert_eq!((&nothing["features"], &nothing["resumeMs"]), (&json!([]), &json!(0)));
    assert_eq!(nothing.get("sessionId"), None, "nobody can come back to it");
    assert_eq!(pings["features"], json!(["ping"]));
}

/// A connection may already have the session when it is cut.
#[tokio::test]
async fn a_session_outlives_connections_that_ask_for_it_and_are_cut_at_once() {
    let hub = hub().await;
    let lost = Counting::spoke(&hub).await.cut(&hub).await;
    for turn in 0..40 {
        let mut wire = Wire::connect(&hub, &lost.key).await;
        let hello = json!({ "type": "__hello", "id": "", "payload": lost.hello() });
        wire.send(&hello).await;
        // The cut comes at a different moment each time.
        for _ in 0..turn % 20 {
            tokio::task::yield_now().await;
        }
        drop(wire);
    }

    let (mut spoke, _) = lost.resume(&hub).await;

    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;
    assert_eq!(spoke.expect("call.requested").await["payload"]["input"], "a");
}

#[tokio::test]
async fn a_peer_that_asks_for_pings_sees_them_and_is_answered() {
    let hub = hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(200);
        config.server.dead_after = Duration::from_secs(20);
    })
    .await;
    let mut page = Wire::connect(&hub, &hub.admin).await;
    hello(&mut page, json!({ "features": ["ping"] })).await;

    page.expect("__ping").await;
    page.text(r#"{"type":"__pong","id":""}"#).await;
    page.text(r#"{"type":"__ping","id":"","payload":{"sent":1}}"#).await;

    loop {
        let message = page.recv().await;
        if message["type"] == "__pong" {
            assert_eq!(message["payload"], json!({ "sent": 1 }));
            break;
        }
        assert_eq!(message["type"], "__ping");
    }
}

#[tokio::test]
async fn a_hello_that_is_wrong_is_answered_by_name_and_a_right_one_may_follow() {
    let hub = hub().await;
    let mut wire = Wire::connect(&hub, &hub.admin).await;
    let foreign = refusal(&mut wire, json!({ "protocols": ["alk.v9"] })).await;
    let unknown = json!({ "resume": { "sessionId": "5f", "received": 0 } });
    let unknown = refusal(&mut wire, unknown).await;
    hello(&mut wire, json!({ "features": ["resume"] })).await;
    let twice = refusal(&mut wire, json!({})).await;
    let mut misshapen = Wire::connect(&hub, &hub.admin).await;
    let shape = refusal(&mut misshapen, json!({ "features": "resume" })).await;
    let late = refusal(&mut misshapen, json!({})).await;

    assert_eq!(foreign.0, "UNSUPPORTED");
    assert!(foreign.1.contains("`alk.v1.json`"), "{foreign:?}");
    assert_eq!(unknown.0, "NOT_FOUND");
    for late in [twice, late] {
        assert_eq!(late.0, "BAD_REQUEST");
        assert!(late.1.contains("must be the first message"), "{late:?}");
    }
    assert_eq!(shape.0, "BAD_REQUEST");
    assert!(shape.1.contains("`__hello`"), "{shape:?}");
}

#[tokio::test]
async fn what_belongs_to_a_session_is_refused_by_name_where_there_is_none() {
    let hub = hub().await;
    let mut wire = Wire::connect(&hub, &hub.admin).await;
    for (sent, code, named) in [
        (r#"{"type":"__ping","id":""}"#, "UNSUPPORTED", "`ping`"),
        (r#"{"type":"__ack","payload":{"count":0}}"#, "UNSUPPORTED", "`resume`"),
        (r#"{"type":"__ack","payload":{"count":"1"}}"#, "BAD_REQUEST", "`__ack`"),
        (
            r#"{"type":"__resume","payload":{"received":0}}"#,
            "BAD_REQUEST",
            "only a hub",
        ),
    ] {
        wire.text(sent).await;

        let refused = wire.expect("__error").await["payload"].take();

        assert_eq!(refused["code"], code, "{sent}: {refused}");
        let message = refused["message"].as_str().expect("a text");
        assert!(message.contains(named), "{sent}: {message}");
    }
}

#[tokio::test]
async fn refusals_of_hellos_are_bounded() {
    let hub = hub().await;
    let mut wire = Wire::connect(&hub, &hub.admin).await;
    for _ in 0..4 {
        assert_eq!(refusal(&mut wire, json!({ "protocols": ["x"] })).await.0, "UNSUPPORTED");
    }

    let fifth = refusal(&mut wire, json!({})).await;

    assert_eq!(fifth.0, "BAD_REQUEST", "{fifth:?}");
}

#[tokio::test]
async fn a_spoke_that_comes_back_goes_on_with_its_call_and_is_not_registered_anew() {
    let hub = hub().await;
    let mut spoke = Counting::spoke(&hub).await;
    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;
    let call = spoke.expect("call.requested").await;

    let (mut spoke, received) = spoke.cut(&hub).await.resume(&hub).await;
    spoke.wire.respond(&call, json!("A")).await;

    let answer = client.expect("call.responded").await;
    assert_eq!(answer["payload"]["output"]["data"], "A");
    assert_eq!(received, 1, "the registration");
    client.call(Dialect::Successor, "d", "text.upper", json!("b")).await;
    let next = spoke.expect("call.requested").await;
    assert_eq!(next["payload"]["input"], "b", "the first one does not come again");
}

#[tokio::test]
async fn what_a_spoke_did_not_get_comes_again_in_its_order_and_what_it_got_does_not() {
    let hub = hub().await;
    let mut spoke = Counting::spoke(&hub).await;
    let mut client = client(&hub).await;
    for n in 0..4 {
        client
            .call(Dialect::Successor, &n.to_string(), "text.upper", json!(n.to_string()))
            .await;
    }
    for n in 0..2 {
        assert_eq!(spoke.expect("call.requested").await["payload"]["input"], n.to_string());
    }
    let message = json!({ "type": "__ack", "payload": { "count": spoke.received - 1 } });
    spoke.wire.send(&message).await;

    // The other messages were written, but are lost with the connection.
    let lost = spoke.cut(&hub).await;
    client.call(Dialect::Successor, "4", "text.upper", json!("4")).await;
    let (mut spoke, _) = lost.resume(&hub).await;

    for n in 2..5 {
        let call = spoke.expect("call.requested").await;
        assert_eq!(call["payload"]["input"], n.to_string());
        spoke.wire.respond(&call, json!("done")).await;
        client.expect("call.responded").await;
    }
}

#[tokio::test]
async fn a_caller_that_comes_back_gets_its_answers_its_items_and_its_events() {
    let hub = hub().await;
    let mut spoke = Counting::spoke(&hub).await;
    let (key, _) = hub.key(&["call:text.*", "events:subscribe:job"]).await;
    let mut caller = Counting::begin(&hub, &key).await;
    caller.wire.text(r#"{"type":"__subscribe","payload":"job:1"}"#).await;
    caller.expect("__subscribed").await;
    caller.wire.call(Dialect::Successor, "w", "text.watch", json!("")).await;
    let watch = spoke.expect("call.requested").await;
    caller.wire.call(Dialect::Successor, "u", "text.upper", json!("")).await;
    let upper = spoke.expect("call.requested").await;
    spoke.wire.respond(&watch, json!("1")).await;
    caller.expect("call.responded").await;
    hub.post("/v1/events/job/1", &json!(1)).await;
    caller.expect("job").await;

    let lost = caller.cut(&hub).await;
    spoke.wire.respond(&watch, json!("2")).await;
    spoke.wire.respond(&upper, json!("A")).await;
    hub.post("/v1/events/job/1", &json!(2)).await;
    let (mut caller, received) = lost.resume(&hub).await;

    assert_eq!(received, 3);
    // There is no order between answers and events.
    let (mut answers, mut events) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut message = caller.next().await;
        match message["type"].as_str() {
            Some("call.responded") => answers.push(message["payload"]["output"]["data"].take()),
            Some("job") => events.push(message["payload"].take()),
            _ => panic!("neither an answer nor an event: {message}"),
        }
    }
    assert_eq!((json!(answers), json!(events)), (json!(["2", "A"]), json!([2])));
    hub.post("/v1/events/job/1", &json!(3)).await;
    assert_eq!(caller.expect("job").await["payload"], 3);
}

#[tokio::test]
async fn events_that_were_lost_with_a_connection_come_again() {
    let hub = hub().await;
    let mut reader = Counting::begin(&hub, &hub.admin).await;
    reader.wire.text(r#"{"type":"__subscribe","payload":"job:1"}"#).await;
    reader.expect("__subscribed").await;
    for n in 0..3 {
        hub.post("/v1/events/job/1", &json!(n)).await;
    }
    reader.expect("job").await;
    until("all of them are written", || async {
        match hub.metric("alkhub_websocket_messages_total{direction=\"out\"}").await {
            Some(sent) if sent >= 4.0 => Ok(()),
            sent => Err(format!("{sent:?}")),
        }
    })
    .await;

    let (mut reader, _) = reader.cut(&hub).await.resume(&hub).await;

    for n in 1..3 {
        assert_eq!(reader.expect("job").await["payload"], n);
    }
}

#[tokio::test]
async fn a_session_is_found_by_its_own_key_alone_and_only_while_it_lives() {
    let hub = hub().await;
    let lost = Counting::spoke(&hub).await.cut(&hub).await;
    let (other, _) = hub.spoke_key("text").await;
    let foreign = Lost {
        key: other,
        ..lost.clone()
    };
    let future = Lost {
        received: lost.received + 1,
        ..lost.clone()
    };

    let foreign = foreign.refused(&hub).await;
    let future = future.refused(&hub).await;
    let (mut spoke, _) = lost.clone().resume(&hub).await;
    spoke.wire.message(Message::Close(None)).await;
    let gone = async || lost.refused(&hub).await;
    let ended = until("the session has ended", || async {
        match gone().await {
            ended if ended.0 == "NOT_FOUND" => Ok(ended),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    assert_eq!(foreign, ended, "nobody learns of other keys' sessions");
    assert_eq!(future.0, "BAD_REQUEST");
    assert!(future.1.contains("`resume.received`"), "{future:?}");
}

#[tokio::test]
async fn an_acknowledgement_from_the_future_is_refused_by_name_and_harms_nobody() {
    let hub = hub().await;
    let mut spoke = Counting::spoke(&hub).await;

    spoke.wire.text(r#"{"type":"__ack","payload":{"count":7}}"#).await;
    let refused = spoke.expect("__error").await;

    assert_eq!(refused["payload"]["code"], "BAD_REQUEST");
    let message = refused["payload"]["message"].as_str().expect("a text");
    assert!(message.contains("`__ack`") && message.contains('7'), "{message}");
    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;
    let (mut spoke, _) = spoke.cut(&hub).await.resume(&hub).await;
    spoke.expect("call.requested").await;
}

#[tokio::test]
async fn a_peer_that_comes_back_before_its_loss_is_noticed_takes_its_session_over() {
    let hub = hub().await;
    let mut spoke = Counting::spoke(&hub).await;
    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;
    let call = spoke.expect("call.requested").await;
    let Counting {
        wire: mut old,
        key,
        id,
        received,
    } = spoke;

    let (mut spoke, _) = Lost { key, id, received }.resume(&hub).await;

    let (code, reason) = old.closed().await;
    assert_eq!(code, 4001, "{reason}");
    spoke.wire.respond(&call, json!("A")).await;
    client.expect("call.responded").await;
}

#[tokio::test]
async fn a_session_that_is_claimed_with_a_wrong_count_goes_on_over_its_connection() {
    let hub = hub().await;
    let mut spoke = Counting::spoke(&hub).await;
    let wrong = Lost {
        key: spoke.key.clone(),
        id: spoke.id.clone(),
        received: 99,
    };

    assert_eq!(wrong.refused(&hub).await.0, "BAD_REQUEST");

    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;
    spoke.expect("call.requested").await;
}

#[tokio::test]
async fn of_two_claims_at_once_one_gets_the_session_and_the_other_is_told() {
    let hub = hub().await;
    let lost = Counting::spoke(&hub).await.cut(&hub).await;
    let mut wires = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::connect(&hub, &lost.key).await;
        let message = json!({ "type": "__hello", "id": "", "payload": lost.hello() });
        wire.send(&message).await;
        wires.push(wire);
    }
    until("both are answered", || async {
        let answered = async |event: &str| hub.metric(&format!("alkhub_sessions_total{{event=\"{event}\"}}")).await;
        match (answered("resumed").await, answered("refused").await) {
            (Some(resumed), Some(refused)) if resumed + refused > 1.5 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;

    let mut ends = Vec::new();
    for wire in &mut wires {
        ends.push(loop {
            let message = wire.next().await;
            if let Message::Close(frame) = message {
                break frame.map_or(0, |frame| u16::from(frame.code)).to_string();
            }
            let message: Value = serde_json::from_slice(&message.into_data()).expect("JSON");
            match message["type"].as_str() {
                Some("__error") => break message["payload"]["code"].as_str().expect("a code").to_owned(),
                Some("call.requested") => break "served".to_owned(),
                _ => {}
            }
        });
    }
    ends.sort();
    let (told, served) = (&ends[0], &ends[1]);
    assert!(["4001", "UNAVAILABLE"].contains(&told.as_str()), "{ends:?}");
    assert_eq!(served, "served", "{ends:?}");
}

#[tokio::test]
async fn a_spoke_that_does_not_come_back_in_time_is_lost_with_its_calls() {
    let hub = hub_with(|config| config.server.resume = Duration::from_millis(300)).await;
    let mut spoke = Counting::spoke(&hub).await;
    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;
    spoke.expect("call.requested").await;
    let lost = Lost {
        key: spoke.key.clone(),
        id: spoke.id.clone(),
        received: spoke.received,
    };

    drop(spoke);

    let error = client.expect("call.error").await;
    assert_eq!(error["payload"]["code"], "SPOKE_LOST", "{error}");
    assert_eq!(error["payload"]["delivered"], "maybe", "{error}");
    waiting(&hub, 0).await;
    assert_eq!(lost.refused(&hub).await.0, "NOT_FOUND");
    client.call(Dialect::Successor, "d", "text.upper", json!("a")).await;
    assert_eq!(client.expect("call.error").await["payload"]["code"], "NO_PROVIDER");
}

#[tokio::test]
async fn calls_go_to_an_instance_that_is_connected_and_else_wait_for_one_that_comes_back() {
    let hub = hub().await;
    let lost = Counting::spoke(&hub).await.cut(&hub).await;
    let mut other = Counting::begin(&hub, &lost.key).await;
    other.register("two").await;
    let mut client = client(&hub).await;

    for n in 0..10 {
        client
            .call(Dialect::Successor, &n.to_string(), "text.upper", json!("a"))
            .await;
        let call = other.expect("call.requested").await;
        other.wire.respond(&call, json!("A")).await;
        client.expect("call.responded").await;
    }
    other.wire.message(Message::Close(None)).await;
    other.wire.closed().await;
    client.call(Dialect::Successor, "waits", "text.upper", json!("b")).await;
    let (mut spoke, _) = lost.resume(&hub).await;

    let call = spoke.expect("call.requested").await;
    assert_eq!(call["payload"]["input"], "b");
    spoke.wire.respond(&call, json!("B")).await;
    client.expect("call.responded").await;
}

#[tokio::test]
async fn a_session_that_waits_ends_with_its_key_and_when_its_instance_registers_anew() {
    let hub = hub().await;
    let (key, id) = hub.spoke_key("text").await;
    let mut revoked = Counting::begin(&hub, &key).await;
    revoked.register("one").await;
    revoked.cut(&hub).await;

    let revoked = hub.request(Method::DELETE, &format!("/v1/admin/keys/{id}"));
    assert!(revoked.send().await.expect("answered").status().is_success());
    waiting(&hub, 0).await;

    let (key, _) = hub.spoke_key("text").await;
    let mut replaced = Counting::begin(&hub, &key).await;
    replaced.register("one").await;
    let replaced = replaced.cut(&hub).await;
    let mut again = Counting::begin(&hub, &key).await;
    again.register("one").await;
    waiting(&hub, 0).await;
    assert_eq!(replaced.refused(&hub).await.0, "NOT_FOUND");
    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;
    again.expect("call.requested").await;
}

#[tokio::test]
async fn a_hub_that_drains_does_not_wait_for_peers_that_cannot_come_back() {
    let hub = hub().await;
    let mut spoke = Counting::spoke(&hub).await;
    let mut client = client(&hub).await;
    client.call(Dialect::Successor, "c", "text.upper", json!("a")).await;
    spoke.expect("call.requested").await;
    spoke.cut(&hub).await;

    hub.hub.shutdown().await;

    let error = client.expect("call.error").await;
    assert_eq!(error["payload"]["code"], "SPOKE_LOST", "{error}");
}

#[tokio::test]
async fn a_hub_without_resume_grants_none() {
    let hub = hub_with(|config| config.server.resume = Duration::ZERO).await;
    let mut wire = Wire::open(request(&hub, Some(&hub.admin))).await.expect("connects");

    let welcome = hello(&mut wire, json!({ "features": ["resume"] })).await;

    assert_eq!(welcome["payload"]["features"], json!([]));
    assert_eq!(welcome["payload"]["resumeMs"], 0);
}

/// The peer lacks messages that the hub has forgotten: it is told so, and its calls end at once.
#[tokio::test]
async fn who_acknowledges_nothing_cannot_come_back_to_what_is_not_kept() {
    let hub = hub().await;
    let mut reader = Counting::begin(&hub, &hub.admin).await;
    reader.wire.text(r#"{"type":"__subscribe","payload":"job:1"}"#).await;
    reader.expect("__subscribed").await;
    let lost = Lost {
        key: reader.key.clone(),
        id: reader.id.clone(),
        received: reader.received,
    };
    for n in 0..300 {
        hub.post("/v1/events/job/1", &json!(n)).await;
        reader.expect("job").await;
    }
    drop(reader);
    waiting(&hub, 1).await;

    let refused = lost.refused(&hub).await;

    assert_eq!(refused.0, "CONFLICT");
    assert!(refused.1.contains("not kept any more"), "{refused:?}");
    waiting(&hub, 0).await;
}

/// What a hub reports about the spoke `text`: its status, and the states of its instances.
async fn states(hub: &TestHub) -> (String, Vec<String>) {
    let spokes = hub.get("/v1/spokes").await;
    let spoke = &spokes.body["data"][0];
    let instances = spoke["instances"].as_array().expect("instances").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut instances: Vec<String> = instances.map(|instance| text(&instance["state"])).collect();
    instances.sort();
    (text(&spoke["status"]), instances)
}

/// Waits until a hub reports this.
async fn states_are(hub: &TestHub, status: &str, instances: &[&str]) {
    until("the spoke is in its state", || async {
        match states(hub).await {
            (found, of_each) if found == status && of_each == instances => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_spoke_whose_connection_is_lost_is_reconnecting_to_every_hub_and_others_get_its_calls() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let mut spoke = Counting::spoke(&one).await;
    for hub in [&one, &two] {
        knows_upper(hub).await;
        states_are(hub, "connected", &["connected"]).await;
    }

    let lost = spoke.cut(&one).await;
    for hub in [&one, &two] {
        states_are(hub, "reconnecting", &["reconnecting"]).await;
        let report = hub.get("/v1/admin/hub").await;
        let spokes = ["spokesConnected", "spokesReconnecting"].map(|field| report.body["data"][field].clone());
        assert_eq!(spokes, [0, 1], "{report:?}");
    }
    assert_eq!(one.metric("alkhub_spokes_reconnecting").await, Some(1.0));
    let (key, _) = one.spoke_key("text").await;
    let mut other = Wire::connect(&one, &key).await;
    let operations = ["upper", "watch"].map(|name| match name {
        "upper" => operation("text", name, "mutation"),
        _ => operation("text", name, "subscription"),
    });
    other.register(Dialect::Origin, &operations).await;
    states_are(&two, "connected", &["connected", "reconnecting"]).await;
    for _ in 0..8 {
        answers(&two, &mut other).await;
    }

    until("the report has the one that is awaited", || async {
        let report = two.get("/v1/admin/hub").await;
        let pods = report.body["data"]["pods"].as_array().cloned().unwrap_or_default();
        let awaited: u64 = pods.iter().filter_map(|pod| pod["reconnecting"].as_u64()).sum();
        if awaited == 1 { Ok(()) } else { Err(report.text) }
    })
    .await;
    (spoke, _) = lost.resume(&one).await;
    states_are(&two, "connected", &["connected", "connected"]).await;
    assert_eq!(one.metric("alkhub_spokes_reconnecting").await, Some(0.0));
    spoke.wire.0.close(None).await.expect("closed");
    states_are(&two, "connected", &["connected"]).await;
}

#[tokio::test]
async fn a_spoke_that_did_not_come_back_is_awaited_no_more() {
    let hub = hub_with(|config| config.server.resume = Duration::from_secs(1)).await;
    let _lost = Counting::spoke(&hub).await.cut(&hub).await;

    states_are(&hub, "disconnected", &[]).await;

    assert_eq!(hub.metric("alkhub_spokes_reconnecting").await, Some(0.0));
}

#[tokio::test]
async fn a_spoke_that_is_narrowed_while_its_connection_is_lost_is_reconnecting_still() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let key = crate::harness::new_key();
    let declare = async |operations: &[&str]| {
        let declaration = json!({ "uid": "u-1", "key": key, "operations": operations });
        one.declare("text", &declaration).await;
    };
    declare(&["text.*"]).await;
    let mut spoke = Counting::begin(&one, &key).await;
    spoke.register("one").await;
    knows_upper(&two).await;
    let lost = spoke.cut(&one).await;
    states_are(&two, "reconnecting", &["reconnecting"]).await;

    declare(&["text.upper"]).await;

    until("the other hub knows what is left", || async {
        let spokes = two.get("/v1/spokes").await;
        match spokes.body["data"][0]["operations"] == json!(["text.upper"]) {
            true => Ok(()),
            false => Err(spokes.text),
        }
    })
    .await;
    for hub in [&one, &two] {
        states_are(hub, "reconnecting", &["reconnecting"]).await;
    }
    let (_spoke, _) = lost.resume(&one).await;
    states_are(&two, "connected", &["connected"]).await;
}

/// Its hub may ask the other one for a session that has just been given away.
#[tokio::test]
async fn who_asks_for_what_another_connection_brings_here_is_not_told_that_it_has_ended() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let lost = Counting::spoke(&one).await.cut(&one).await;
    let mut wires = Vec::new();
    for _ in 0..3 {
        wires.push(Wire::connect(&two, &lost.key).await);
    }

    let message = json!({ "type": "__hello", "id": "", "payload": lost.hello() });
    for wire in &mut wires {
        wire.send(&message).await;
    }

    let mut welcomed = 0;
    for wire in &mut wires {
        let Message::Text(answer) = wire.next().await else {
            continue; // A later one took the session over.
        };
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        match answer["type"].as_str() {
            Some("__welcome") => welcomed += 1,
            _ => assert_eq!(answer["payload"]["code"], "UNAVAILABLE", "{answer}"),
        }
    }
    assert!(welcomed > 0);
}
