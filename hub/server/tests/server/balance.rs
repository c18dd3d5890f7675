//! How connections move from hub to hub: because an operator says so, or because they are unevenly spread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_test_support::{Port, RedisServer, until, until_within};
use futures::StreamExt as _;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::cluster::{answers, knows_upper, pair, pair_with};
use crate::harness::{Answer, TestHub, in_flight};
use crate::wire::{Dialect, Wire, operation, request};

/// The number of peers behind the load balancer.
const PEERS: usize = 24;

/// Twice the time that the rule takes to observe and then to move half of those peers.
const LONG: Duration = Duration::from_secs(90);

/// Tells one hub, through another, to drain for this many seconds.
async fn drain(at: &TestHub, hub: &TestHub, seconds: u64) -> Answer {
    let path = format!("/v1/admin/hubs/{}/drain", hub.hub.hub_id());
    let body = json!({ "seconds": seconds }).to_string();
    Answer::of(
        at.request(Method::PUT, &path)
            .body(body)
            .send()
            .await
            .expect("answered"),
    )
    .await
}

async fn undrain(at: &TestHub, hub: &TestHub) -> u16 {
    let path = format!("/v1/admin/hubs/{}/drain", hub.hub.hub_id());
    let undone = at.request(Method::DELETE, &path).send().await;
    undone.expect("answered").status().as_u16()
}

/// What a hub reports about another one.
async fn reported(at: &TestHub, hub: &TestHub) -> Value {
    let report = at.get("/v1/admin/hub").await;
    let pods = report.body["data"]["pods"].as_array().expect("pods").clone();
    let of_it = |pod: &&Value| pod["hubId"] == hub.hub.hub_id().as_str();
    pods.iter().find(of_it).cloned().unwrap_or_default()
}

/// Waits until a hub knows whether another one drains.
async fn drains(at: &TestHub, hub: &TestHub, expected: bool) {
    until("it is known whether the hub drains", || async {
        let pod = reported(at, hub).await;
        if pod["draining"] == expected { Ok(()) } else { Err(pod) }
    })
    .await;
}

/// Waits until both hubs count each other and have this many seconds of figures.
async fn both_are_members(one: &TestHub, two: &TestHub) {
    for hub in [one, two] {
        until("the hubs know of each other", || async {
            match hub.metric("alkhub_balance_members").await {
                Some(2.0) => Ok(()),
                members => Err(format!("{members:?}")),
            }
        })
        .await;
    }
}

/// How a hub answers an upgrade: 101, or the status and `Retry-After` of its refusal.
async fn knock(hub: &TestHub, key: &str) -> (u16, Option<String>) {
    match Wire::open(request(hub, Some(key))).await.map_err(|error| *error) {
        Ok(_) => (101, None),
        Err(Error::Http(response)) => {
            let wait = response.headers().get("retry-after");
            let wait = wait.map(|wait| wait.to_str().expect("text").to_owned());
            (response.status().as_u16(), wait)
        }
        Err(other) => panic!("no HTTP answer: {other}"),
    }
}

/// Waits until a hub answers upgrades with this status.
async fn door_is(hub: &TestHub, key: &str, status: u16) -> Option<String> {
    until("the door is as it shall be", || async {
        match knock(hub, key).await {
            (found, wait) if found == status => Ok(wait),
            (found, _) => Err(format!("{found}")),
        }
    })
    .await
}

#[tokio::test]
async fn a_hub_that_is_told_to_drain_lets_plain_peers_go_after_their_calls_and_keeps_sessions() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let mut spoke = Wire::spoke(&one, &[operation("text", "upper", "query")]).await;
    let mut session = Wire::connect(&one, &one.admin).await;
    session
        .send(&json!({ "type": "__hello", "id": "", "payload": { "features": ["resume"] } }))
        .await;
    session.expect("__welcome").await;
    knows_upper(&two).await;
    both_are_members(&one, &two).await;

    let input = json!("x");
    let (answer, ()) = tokio::join!(two.post("/v1/call/text.upper", &input), async {
        let call = spoke.expect("call.requested").await;
        let told = drain(&two, &one, 60).await;
        assert_eq!(told.body["data"]["hubId"], one.hub.hub_id().as_str(), "{told:?}");
        drains(&two, &one, true).await;
        // The spoke's connection is chosen, but not closed, because its call is still running.
        until("the spoke is to go", || async {
            match one.metric("alkhub_balance_moves_total{reason=\"drain\"}").await {
                Some(1.0) => Ok(()),
                moves => Err(format!("{moves:?}")),
            }
        })
        .await;
        spoke.respond(&call, json!("X")).await;
    });

    assert_eq!(answer.body["data"], "X", "{answer:?}");
    let (code, reason) = spoke.closed().await;
    assert_eq!((code, reason.contains("other hubs")), (1001, true), "{reason}");
    session
        .call(Dialect::Successor, "c-1", "hub.operations", json!({}))
        .await;
    let answered = session.recv().await;
    assert_eq!(answered["id"], "c-1", "the session is where it was: {answered}");
}

#[tokio::test]
async fn a_peer_that_has_said_nothing_yet_is_let_go_by_a_hub_that_is_told_to_drain() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    both_are_members(&one, &two).await;
    let mut silent = Wire::connect(&one, &one.admin).await;

    drain(&two, &one, 60).await;

    let code = tokio::time::timeout(LONG, silent.let_go()).await.expect("it is let go");
    assert_eq!(code, 1001);
}

#[tokio::test]
async fn new_calls_go_to_others_while_a_peer_is_let_go_and_its_own_calls_end_with_their_answers() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let (key, _) = one.spoke_key("text").await;
    let upper = [operation("text", "upper", "query")];
    let (mut leaving, mut staying) = (Wire::connect(&one, &key).await, Wire::connect(&two, &key).await);
    leaving.register(Dialect::Origin, &upper).await;
    knows_upper(&two).await;
    both_are_members(&one, &two).await;
    let mut client = Wire::connect(&one, &one.admin).await;
    client.call(Dialect::Origin, "first", "text.upper", json!("x")).await;
    let first = leaving.expect("call.requested").await;
    drain(&two, &one, 60).await;
    until("both peers are to go", || async {
        match one.metric("alkhub_balance_moves_total{reason=\"drain\"}").await {
            Some(2.0) => Ok(()),
            moves => Err(format!("{moves:?}")),
        }
    })
    .await;
    staying.register(Dialect::Origin, &upper).await;
    until("both instances are known", || async {
        let spokes = one.get("/v1/spokes").await;
        match spokes.body["data"][0]["instances"].as_array().map(Vec::len) {
            Some(2) => Ok(()),
            _ => Err(spokes.text),
        }
    })
    .await;

    for _ in 0..4 {
        answers(&one, &mut staying).await;
    }
    in_flight(&one, 1).await;
    leaving.respond(&first, json!("X")).await;

    let answer = client.expect("call.responded").await;
    assert_eq!(answer["payload"]["output"]["data"], "X", "{answer}");
    assert_eq!(client.closed().await.0, 1001);
    assert_eq!(leaving.closed().await.0, 1001);
}

#[tokio::test]
async fn the_door_of_a_hub_that_drains_is_shut_before_any_key_is_looked_at_until_it_is_told_otherwise() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    both_are_members(&one, &two).await;
    let unknown = crate::harness::new_key();
    assert_eq!(knock(&one, &unknown).await, (401, None));

    drain(&two, &one, 60).await;
    let wait = door_is(&one, &unknown, 503).await.expect("Retry-After");

    assert!(["1", "2"].contains(&wait.as_str()), "{wait}");
    assert_eq!(knock(&one, &one.admin).await.0, 503);
    assert_eq!(one.get("/v1/ws").await.status, 426, "that is no upgrade");
    assert_eq!(one.management("/readyz").await.status, 200);
    let refused = one.metric("alkhub_balance_refused_total").await.expect("a counter");
    assert!(refused >= 2.0, "{refused}");
    assert_eq!(undrain(&two, &one).await, 204);
    drains(&two, &one, false).await;
    door_is(&one, &one.admin, 101).await;
}

#[tokio::test]
async fn a_drain_that_nobody_repeats_lapses() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    both_are_members(&one, &two).await;

    drain(&one, &one, 3).await;
    drains(&two, &one, true).await;

    drains(&two, &one, false).await;
}

#[tokio::test]
async fn orders_are_checked_and_need_the_scope_admin() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let (key, _) = one.key(&["spokes:read"]).await;
    let path = format!("/v1/admin/hubs/{}/drain", two.hub.hub_id());

    for seconds in [0, 3_601] {
        drain(&one, &two, seconds)
            .await
            .is_problem(400, "BAD_REQUEST")
            .names("seconds");
    }
    let nobody = one
        .request(Method::PUT, "/v1/admin/hubs/nobody/drain")
        .body(r#"{"seconds":5}"#);
    Answer::of(nobody.send().await.expect("answered"))
        .await
        .is_problem(404, "NOT_FOUND");
    for (method, path) in [
        (Method::PUT, path.as_str()),
        (Method::DELETE, path.as_str()),
        (Method::POST, "/v1/admin/rebalance"),
    ] {
        let asked = one.as_key(&key, method, path).body(r#"{"seconds":5}"#).send().await;
        Answer::of(asked.expect("answered"))
            .await
            .is_problem(403, "ACCESS_DENIED");
    }
}

#[tokio::test]
async fn a_hub_without_redis_is_told_that_it_is_alone() {
    let hub = crate::harness::hub().await;

    drain(&hub, &hub, 5).await.is_problem(409, "CONFLICT");

    assert_eq!(knock(&hub, &hub.admin).await.0, 101);
    let report = hub.get("/v1/admin/hub").await;
    assert!(report.body["data"]["balance"]["ratio"].is_number(), "{report:?}");
}

/// Where a load balancer sends peers.
#[derive(Clone)]
struct Doors(Arc<Mutex<Vec<String>>>);

// === impl Doors ===

impl Doors {
    fn of(hubs: &[&TestHub]) -> Self {
        Self(Arc::new(Mutex::new(Self::urls(hubs))))
    }

    fn lead_to(&self, hubs: &[&TestHub]) {
        *self.0.lock() = Self::urls(hubs);
    }

    fn urls(hubs: &[&TestHub]) -> Vec<String> {
        hubs.iter().map(|hub| hub.hub.url().replacen("http", "ws", 1)).collect()
    }

    /// One of them at random.
    fn any(&self) -> String {
        let urls = self.0.lock();
        let number: u32 = rand::random();
        urls[number as usize % urls.len()].clone()
    }
}

/// A plain peer that comes back through some door whenever it is let go.
async fn come_and_go(doors: Doors, key: String, connected: Arc<AtomicUsize>) {
    loop {
        let mut request = format!("{}/v1/ws", doors.any()).into_client_request().expect("a URL");
        let value = format!("Bearer {key}").parse().expect("a header");
        request.headers_mut().insert("authorization", value);
        match Wire::open(request).await.map_err(|error| *error) {
            Ok(mut wire) => {
                wire.send(&json!({ "type": "__subscribe", "id": "", "payload": "a:1" }))
                    .await;
                wire.expect("__subscribed").await;
                connected.fetch_add(1, Ordering::AcqRel);
                assert_eq!(wire.let_go().await, 1001);
                connected.fetch_sub(1, Ordering::AcqRel);
            }
            Err(Error::Http(response)) => assert_eq!(response.status(), 503),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_spread_over_a_hub_that_joins_and_none_moves_while_redis_is_frozen() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let (doors, connected) = (Doors::of(&[&one]), Arc::new(AtomicUsize::new(0)));
    let mut peers = JoinSet::new();
    for _ in 0..PEERS {
        // They come from one address, so the hub tells them apart by their keys.
        let (key, _) = one.key(&["events:subscribe:*"]).await;
        peers.spawn(come_and_go(doors.clone(), key, connected.clone()));
    }
    until("all peers are connected", || async {
        match connected.load(Ordering::Acquire) {
            PEERS => Ok(()),
            count => Err(count),
        }
    })
    .await;
    both_are_members(&one, &two).await;
    let rebalanced = one.request(Method::POST, "/v1/admin/rebalance").send().await;
    assert_eq!(rebalanced.expect("answered").status(), 204);

    redis.freeze();
    until("the hub knows that it knows nothing", || async {
        match one.metric("alkhub_balance_members").await {
            Some(0.0) => Ok(()),
            members => Err(format!("{members:?}")),
        }
    })
    .await;
    let moved = || one.metric("alkhub_balance_moves_total{reason=\"balance\"}");
    assert_eq!(moved().await, Some(0.0));
    assert_eq!(knock(&one, &one.admin).await.0, 101, "and everybody is welcome");
    redis.thaw();
    doors.lead_to(&[&one, &two]);

    // Without slack a hub keeps a tenth more than its part of the mean.
    until_within("the peers are spread", LONG, || async {
        let report = one.get("/v1/admin/hub").await.body["data"]["balance"].clone();
        let is_even = report["total"] == PEERS && report["max"].as_u64().is_some_and(|max| max <= 14);
        if is_even { Ok(()) } else { Err(report) }
    })
    .await;
    let moved = moved().await.expect("a counter");
    assert!((10.0..=16.0).contains(&moved), "{moved} moved");
    assert!(peers.try_join_next().is_none(), "a peer has failed");
}

/// A client whose session moves when asked to; also returns the id of the session.
async fn mover(hub: &TestHub, resume: Option<&str>) -> (Wire, String) {
    let mut wire = Wire::connect(hub, &hub.admin).await;
    let id = greet(&mut wire, resume).await;
    (wire, id)
}

async fn greet(wire: &mut Wire, resume: Option<&str>) -> String {
    let mut hello = json!({ "features": ["resume", "migrate"] });
    if let Some(id) = resume {
        hello["resume"] = json!({ "sessionId": id, "received": 0 });
    }
    wire.send(&json!({ "type": "__hello", "id": "", "payload": hello }))
        .await;
    let welcome = wire.expect("__welcome").await;
    let id = welcome["payload"]["sessionId"].as_str().expect("an id");
    id.to_owned()
}

/// A client like that of [`mover`], but one that has dialled a Service by its name.
async fn mover_by_name(hub: &TestHub) -> (Wire, String) {
    let mut service = request(hub, Some(&hub.admin));
    let host = HeaderValue::from_static("hub.team.svc:7420");
    service.headers_mut().insert("host", host);
    let mut wire = Wire::open(service).await.expect("connects");
    let id = greet(&mut wire, None).await;
    (wire, id)
}

/// Two hubs that know each other, and the address at which peers in their cluster reach each of them.
async fn pair_with_addresses(redis: &RedisServer) -> (TestHub, TestHub) {
    let ports = [Port::free(), Port::free()];
    let settings = ports.each_ref().map(|port| {
        let (url, port) = (redis.url(), port.number());
        move |config: &mut HubConfig| {
            config.events.redis_url = Some(url.into());
            config.server.listen = ([127, 0, 0, 1], port).into();
            config.pod.ip = "127.0.0.1".to_owned();
        }
    });
    let (one, two) = pair_with(settings).await;
    both_are_members(&one, &two).await;
    (one, two)
}

/// A peer in the cluster is told the address of the hub that has room; a peer that may be anywhere is told no target.
#[tokio::test]
async fn who_dials_a_service_by_its_name_is_told_which_hub_should_have_it() {
    let redis = RedisServer::start().await;
    let (one, two) = pair_with_addresses(&redis).await;
    let (mut outside, _) = mover(&one, None).await;
    let (mut inside, _) = mover_by_name(&one).await;

    drain(&two, &one, 60).await;

    let told = inside.expect("hub.migrate").await;
    assert_eq!(told["payload"]["target"], two.hub.url().as_str(), "{told}");
    let told = outside.expect("hub.migrate").await;
    assert_eq!(told["payload"]["target"], Value::Null, "{told}");
}

#[tokio::test]
async fn a_hub_that_ends_tells_who_dials_a_service_by_its_name_which_hub_should_have_it() {
    let redis = RedisServer::start().await;
    let (one, two) = pair_with_addresses(&redis).await;
    let (outside, inside) = (mover(&one, None).await, mover_by_name(&one).await);

    let moving = async {
        let mut targets = Vec::new();
        for (mut wire, id) in [outside, inside] {
            let told = wire.expect("hub.migrate").await;
            targets.push(told["payload"]["target"].clone());
            let (mut elsewhere, _) = mover(&two, Some(&id)).await;
            elsewhere.expect("__resume").await;
        }
        targets
    };
    let (ended, targets) = tokio::join!(tokio::time::timeout(LONG, one.hub.shutdown()), moving);

    ended.expect("ends in time");
    assert_eq!(targets, [Value::Null, json!(two.hub.url())]);
}

#[tokio::test]
async fn who_was_asked_to_move_here_is_not_asked_again_for_balance() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    both_are_members(&one, &two).await;
    let mut moved = Vec::new();
    for _ in 0..2 {
        moved.push(mover(&one, None).await);
    }
    drain(&two, &one, 60).await;
    let (asked, mut is_asked) = tokio::sync::mpsc::channel(32);
    let mut peers = JoinSet::new();
    let mut joins = |mut wire: Wire, has_moved: bool| {
        let asked = asked.clone();
        peers.spawn(async move {
            while let Some(Ok(message)) = wire.0.next().await {
                if message.to_text().is_ok_and(|text| text.contains("hub.migrate")) {
                    asked.send(has_moved).await.expect("it is read");
                }
            }
        });
    };
    for (mut wire, id) in moved {
        wire.expect("hub.migrate").await;
        let (mut elsewhere, _) = mover(&two, Some(&id)).await;
        elsewhere.expect("__resume").await;
        joins(elsewhere, true);
    }
    assert_eq!(undrain(&two, &one).await, 204);
    drains(&two, &one, false).await;

    // By age the moved sessions would go first: they have been on the hub for longer than all of these.
    for _ in 0..14 {
        joins(mover(&two, None).await.0, false);
    }
    let rebalanced = two.request(Method::POST, "/v1/admin/rebalance").send().await;
    assert_eq!(rebalanced.expect("answered").status(), 204);

    for _ in 0..4 {
        let has_moved = tokio::time::timeout(LONG, is_asked.recv()).await;
        assert_eq!(has_moved.expect("in time"), Some(false));
    }
}

#[tokio::test]
async fn a_peer_that_avoids_a_hub_is_told_to_try_again_and_taken_by_the_others() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let avoiding = async |at: &TestHub, avoided: &TestHub| {
        let url = format!(
            "{}/v1/ws?avoid={}",
            at.hub.url().replacen("http", "ws", 1),
            avoided.hub.hub_id()
        );
        let mut asked = url.into_client_request().expect("a URL");
        asked.headers_mut().insert(
            "authorization",
            format!("Bearer {}", at.admin).parse().expect("a header"),
        );
        match Wire::open(asked).await.map_err(|error| *error) {
            Ok(_) => (101, false),
            Err(Error::Http(response)) => (
                response.status().as_u16(),
                response.headers().contains_key("retry-after"),
            ),
            Err(other) => panic!("no HTTP answer: {other}"),
        }
    };

    assert_eq!(avoiding(&one, &one).await, (503, false));
    assert_eq!(avoiding(&two, &one).await, (101, false));
    assert_eq!(
        one.metric("alkhub_balance_refused_total").await,
        Some(0.0),
        "no full hub has refused it"
    );
}

#[tokio::test]
async fn a_peer_that_asks_is_told_how_many_hubs_take_connections_and_each_change_of_it() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    both_are_members(&one, &two).await;
    let mut peer = Wire::connect(&one, &one.admin).await;
    peer.send(&json!({ "type": "__hello", "id": "", "payload": { "features": ["hubs"] } }))
        .await;
    let welcome = peer.expect("__welcome").await;
    assert_eq!(welcome["payload"]["features"], json!(["hubs"]), "{welcome}");
    let hubs = async |peer: &mut Wire| peer.expect("__hubs").await["payload"]["count"].clone();
    assert_eq!(hubs(&mut peer).await, 2);

    drain(&one, &two, 60).await;
    assert_eq!(hubs(&mut peer).await, 1);
    assert_eq!(undrain(&one, &two).await, 204);

    assert_eq!(hubs(&mut peer).await, 2);
}

#[tokio::test]
async fn a_hub_that_is_set_not_to_rebalance_drains_all_the_same() {
    let redis = RedisServer::start().await;
    let (one, two) = pair_with([(); 2].map(|()| {
        |config: &mut alkhub_config::HubConfig| {
            config.events.redis_url = Some(redis.url().into());
            config.server.rebalance = false;
        }
    }))
    .await;
    let mut spoke = Wire::spoke(&one, &[operation("text", "upper", "query")]).await;
    both_are_members(&one, &two).await;
    assert_eq!(one.metric("alkhub_balance_goal_connections").await, Some(0.0));

    drain(&two, &one, 60).await;

    assert_eq!(spoke.closed().await.0, 1001);
}

#[tokio::test]
async fn a_report_says_how_it_went_in_the_last_minute_on_each_pod() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let mut spoke = Wire::spoke(&one, &[operation("text", "upper", "query")]).await;
    knows_upper(&two).await;
    both_are_members(&one, &two).await;

    let input = json!("x");
    let (well, ()) = tokio::join!(two.post("/v1/call/text.upper", &input), async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("X")).await;
    });
    let (lost, ()) = tokio::join!(two.post("/v1/call/text.upper", &input), async {
        spoke.expect("call.requested").await;
        spoke.0.close(None).await.expect("closed");
    });

    assert_eq!((well.status, lost.status), (200, 502), "{lost:?}");
    until("the report has both calls", || async {
        let report = one.get("/v1/admin/hub").await;
        let pods = report.body["data"]["pods"].as_array().cloned().unwrap_or_default();
        let minutes: Vec<_> = pods.iter().map(|pod| &pod["lastMinute"]).collect();
        let of = |calls, failed| json!({ "calls": calls, "callsFailed": failed, "returns": 0, "returnsLate": 0 });
        let is_told = minutes.contains(&&of(2, 1)) && minutes.contains(&&of(0, 0));
        let is_waiting = pods.iter().any(|pod| pod["reconnecting"] != 0);
        if is_told && !is_waiting {
            Ok(())
        } else {
            Err(report.text)
        }
    })
    .await;
}
