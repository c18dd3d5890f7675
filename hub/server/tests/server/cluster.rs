//! Two hubs that share Redis and Postgres: what one is told also takes effect on the other.

use std::time::Duration;

use alkhub_budget::Budgets;
use alkhub_config::{BudgetConfig, EventsConfig, HubConfig};
use alkhub_devdb::Server;
use alkhub_hub_cluster::{Cluster, KeyChange, LinkState};
use alkhub_redis::Connector;
use alkhub_tasks::Supervisor;
use alkhub_test_support::{RedisServer, until, within};
use prometheus::Registry;
use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::{TestHub, starting_hub};
use crate::wire::{Dialect, Wire, operation};

/// Two ready hubs of one Hub resource.
pub(crate) async fn pair(redis: &RedisServer) -> (TestHub, TestHub) {
    pair_with([(); 2].map(|()| |config: &mut HubConfig| config.events.redis_url = Some(redis.url().into()))).await
}

/// Two ready hubs of one Hub resource, each with settings of its own.
pub(crate) async fn pair_with<C: FnOnce(&mut HubConfig)>([of_one, of_two]: [C; 2]) -> (TestHub, TestHub) {
    let mut shared: Option<HubConfig> = None;
    let mut start = |change: C| {
        starting_hub(|config| {
            change(config);
            config.hub.uid = "uid-1".to_owned();
            match &shared {
                Some(first) => {
                    config.store.schema = first.store.schema.clone();
                    // As in the pods of one Hub: with an admin key of its own, this hub would end that of the first.
                    config.auth = first.auth.clone();
                }
                None => shared = Some(config.clone()),
            }
        })
    };
    let (one, mut two) = (start(of_one), start(of_two));
    two.admin = one.admin.clone();
    tokio::join!(one.hub.ready(), two.hub.ready());
    (one, two)
}

/// Waits until a hub knows the operation `text.upper`.
pub(crate) async fn knows_upper(hub: &TestHub) {
    until("the operation is known", || async {
        let operation = hub.get("/v1/operations/text.upper").await;
        (operation.status == 200).then_some(()).ok_or(operation.text)
    })
    .await;
}

/// Checks that a call of `text.upper` at a hub reaches this spoke, and that the answer reaches the caller.
pub(crate) async fn answers(hub: &TestHub, spoke: &mut Wire) {
    let input = json!("x");
    let (answer, ()) = tokio::join!(hub.post("/v1/call/text.upper", &input), async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("X")).await;
    });
    assert_eq!(answer.body["data"], "X", "{answer:?}");
}

/// What one hub just allows, or refuses, the other one allows or refuses as well.
#[tokio::test]
async fn the_deepest_values_and_the_faults_of_a_spoke_cross_from_hub_to_hub() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let (key, _) = one.spoke_key("text").await;
    let mut spoke = Wire::connect(&two, &key).await;
    let mut upper = operation("text", "upper", "query");
    (upper["inputSchema"], upper["outputSchema"]) = (json!(true), json!(true));
    spoke.register(Dialect::Origin, &[upper]).await;
    knows_upper(&one).await;
    let deep: serde_json::Value = serde_json::from_str(&format!("{}{}", "[".repeat(64), "]".repeat(64))).expect("JSON");

    let (answer, ()) = tokio::join!(one.post("/v1/call/text.upper", &deep), async {
        let call = spoke.expect("call.requested").await;
        assert_eq!(call["payload"]["input"], deep);
        spoke.respond(&call, deep.clone()).await;
    });
    assert_eq!(answer.body["data"], deep, "{answer:?}");

    for (fields, code) in [
        (r#""code":3"#, "OUTPUT_INVALID"),
        (r#""code":"UNAUTHENTICATED""#, "EXECUTION_ERROR"),
    ] {
        let input = json!(1);
        let (answer, ()) = tokio::join!(one.post("/v1/call/text.upper", &input), async {
            let call = spoke.expect("call.requested").await;
            let leg = &call["payload"]["requestId"];
            spoke
                .text(&format!(
                    r#"{{"type":"call.error","id":"","payload":{{"requestId":{leg},{fields}}}}}"#
                ))
                .await;
        });
        assert_eq!((answer.status, &answer.body["code"]), (502, &json!(code)), "{answer:?}");
        assert_eq!(answer.body["delivered"], "yes", "{answer:?}");
        if code == "OUTPUT_INVALID" {
            spoke.expect("__error").await;
        }
    }

    let mut subscriber = Wire::connect(&two, &two.admin).await;
    subscriber
        .send(&json!({ "type": "__subscribe", "id": "", "payload": "a:1" }))
        .await;
    subscriber.expect("__subscribed").await;
    one.post("/v1/events/a/1", &deep).await;
    assert_eq!(subscriber.expect("a").await["payload"], deep);
}

#[tokio::test]
async fn a_call_an_event_and_a_revocation_cross_from_hub_to_hub() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let (key, id) = one.spoke_key("text").await;
    let mut spoke = Wire::connect(&two, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "upper", "query")])
        .await;
    knows_upper(&one).await;

    answers(&one, &mut spoke).await;

    let mut subscriber = Wire::connect(&two, &two.admin).await;
    subscriber
        .send(&json!({ "type": "__subscribe", "id": "", "payload": "a:1" }))
        .await;
    subscriber.expect("__subscribed").await;
    assert_eq!(one.post("/v1/events/a/1", &json!(5)).await.body["data"]["local"], 0);
    assert_eq!(
        subscriber.expect("a").await,
        json!({ "type": "a", "id": "1", "payload": 5 })
    );

    let report = one.get("/v1/admin/hub").await;
    assert_eq!(report.body["data"]["redis"], "up", "{report:?}");
    until("both pods are reported", || async {
        let report = one.get("/v1/admin/hub").await;
        match report.body["data"]["pods"].as_array().map(Vec::len) {
            Some(2) => Ok(()),
            _ => Err(report.text),
        }
    })
    .await;

    let revoked = one
        .request(Method::DELETE, &format!("/v1/admin/keys/{id}"))
        .send()
        .await
        .expect("answered");
    assert_eq!(revoked.status(), 200);
    assert_eq!(spoke.closed().await, (4401, "the key was revoked".to_owned()));
}

#[tokio::test]
async fn a_revocation_acts_at_once_whatever_a_recheck_waits_for() {
    let redis = RedisServer::start().await;
    let postgres = Server::temporary().await.expect("a server of the test's own");
    let hub = starting_hub(|config| {
        config.events.redis_url = Some(redis.url().into());
        config.store.database_url = Some(postgres.url().into());
        config.store.ping_interval = Duration::from_millis(200);
    });
    hub.hub.ready().await;
    let (key, id) = hub.key(&["events:subscribe:a"]).await;
    let mut socket = Wire::connect(&hub, &key).await;
    let stream = hub.as_key(&key, Method::GET, "/v1/events?topic=a:1").send();
    let stream = stream.await.expect("answered");
    let events = EventsConfig {
        redis_url: Some(redis.url().into()),
        ..EventsConfig::default()
    };
    let (supervisor, registry) = (
        Supervisor::new(TaskTracker::new(), CancellationToken::new()),
        Registry::new(),
    );
    let mut link = Connector::new(&events, &"other".parse().expect("a hub's id"), &registry).expect("settings");
    let budgets = Budgets::new(&BudgetConfig::default(), &registry).expect("fresh metrics");
    let other = Cluster::start(&events, &mut link, &supervisor, (&registry, &budgets), None).expect("fresh metrics");
    link.start(&supervisor);
    within(
        "the other hub reaches Redis",
        other.link().expect("there is Redis").wait_for(LinkState::is_up),
    )
    .await
    .expect("the hub lives");
    postgres.stop().await.expect("stops");
    within(
        "the hub sees that Postgres is away",
        hub.hub.store().link().wait_for(|state| !state.is_up()),
    )
    .await
    .expect("the hub lives");

    other.announce_key_change(KeyChange::Recheck).await;
    other.announce_key_change(KeyChange::Revoked(vec![id])).await;

    assert_eq!(socket.closed().await, (4401, "the key was revoked".to_owned()));
    let words = within("the stream ends", stream.text()).await.expect("read");
    assert!(words.contains("the key was revoked"), "{words}");
}

#[tokio::test]
async fn a_publication_that_redis_refuses_says_so() {
    let redis = RedisServer::start().await;
    let hub = starting_hub(|config| config.events.redis_url = Some(redis.url().into()));
    hub.hub.ready().await;
    redis.query::<()>(&["ACL", "SETUSER", "default", "-publish"]).await;

    let refused = hub.post("/v1/events/a/1", &json!(1)).await;

    let detail = "Redis refused: NOPERM; nobody got the event";
    refused.is_problem(503, "UNAVAILABLE").names(detail);
    assert_eq!(refused.body["delivered"], "no", "{refused:?}");
}

#[tokio::test]
async fn a_second_hub_with_the_same_prefix_stays_unready_and_names_the_first() {
    let redis = RedisServer::start().await;
    let (one, _two) = pair(&redis).await;
    let stranger = starting_hub(|config| {
        config.events.redis_url = Some(redis.url().into());
        config.hub.uid = "uid-2".to_owned();
    });

    let report = until("the stranger says whose prefix it is", || async {
        let report = stranger.management("/readyz").await;
        if report.body["prefix"]["state"] == "taken" {
            Ok(report)
        } else {
            Err(report.text)
        }
    })
    .await;

    assert_eq!(
        (report.status, &report.body["status"]),
        (503, &json!("failed")),
        "{report:?}"
    );
    assert!(report.text.contains("uid-1"), "{report:?}");
    assert_eq!(one.management("/readyz").await.status, 200);
}

#[tokio::test]
async fn redis_away_degrades_a_hub_and_its_own_calls_go_on() {
    let mut redis = RedisServer::start().await;
    let (one, _two) = pair(&redis).await;
    let (key, _) = one.spoke_key("text").await;
    let mut spoke = Wire::connect(&one, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "upper", "query")])
        .await;

    redis.kill().await;

    let report = until("the hub is degraded", || async {
        let report = one.management("/readyz").await;
        if report.body["status"] == "degraded" {
            Ok(report)
        } else {
            Err(report.text)
        }
    })
    .await;
    assert_eq!(
        (report.status, &report.body["redis"]["state"]),
        (200, &json!("down")),
        "{report:?}"
    );
    answers(&one, &mut spoke).await;
    one.post("/v1/events/a/1", &json!(1))
        .await
        .is_problem(503, "UNAVAILABLE")
        .names("Redis");
    spoke.send(&json!({ "type": "a", "id": "1", "payload": 1 })).await;
    assert_eq!(spoke.expect("__error").await["payload"]["code"], "ACCESS_DENIED");
}

/// A declaration that allows less than before affects what is connected, on every hub, but nothing that it still
/// allows.
#[tokio::test]
async fn a_declaration_that_is_narrowed_ends_what_it_no_longer_allows_on_every_hub() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let key = crate::harness::new_key();
    let declare = async |operations: &[&str], concurrency: u32, scopes: &[&str]| {
        let body = json!({
            "uid": "u-1", "key": key, "operations": operations, "concurrency": concurrency, "scopes": scopes,
        });
        one.declare("text", &body).await;
    };
    declare(&["text.*"], 5, &["events:subscribe:*", "call:*"]).await;
    let mut spoke = Wire::connect(&two, &key).await;
    let operations = ["upper", "watch", "other"].map(|name| {
        let kind = if name == "watch" { "subscription" } else { "query" };
        operation("text", name, kind)
    });
    spoke.register(Dialect::Origin, &operations).await;
    for topic in ["job:1", "log:1"] {
        spoke
            .send(&json!({ "type": "__subscribe", "id": "", "payload": { "topic": topic } }))
            .await;
        spoke.expect("__subscribed").await;
    }
    until("the operations are known to both", || async {
        let operations = one.get("/v1/operations/text.watch").await;
        let known = operations.body["data"]["spokes"][0] == "text";
        known.then_some(()).ok_or(operations.text)
    })
    .await;
    let mut client = Wire::connect(&one, &one.admin).await;
    client.call(Dialect::Successor, "watch", "text.watch", json!("a")).await;
    let watching = spoke.expect("call.requested").await;
    client
        .call(Dialect::Successor, "running", "text.upper", json!("b"))
        .await;
    let running = spoke.expect("call.requested").await;

    declare(&["text.upper"], 1, &["events:subscribe:job"]).await;

    let ended = client.expect("call.error").await["payload"].clone();
    assert_eq!(
        (&ended["requestId"], &ended["code"]),
        (&json!("watch"), &json!("NO_PROVIDER"))
    );
    let mut told = [spoke.recv().await, spoke.recv().await];
    told.sort_by_key(|message| message["type"].to_string());
    assert_eq!(
        (&told[0]["type"], &told[0]["payload"]["topic"]),
        (&json!("__error"), &json!("log:1")),
        "{told:?}"
    );
    assert_eq!(told[1]["type"], "call.aborted", "{told:?}");
    assert_eq!(told[1]["payload"]["requestId"], watching["payload"]["requestId"]);
    until("both know the narrowed instance", || async {
        for hub in [&one, &two] {
            let spokes = hub.get("/v1/spokes").await;
            if spokes.body["data"][0]["operations"] != json!(["text.upper"]) {
                return Err(spokes.text);
            }
        }
        Ok(())
    })
    .await;
    for hub in [&one, &two] {
        hub.post("/v1/call/text.other", &json!("c"))
            .await
            .is_problem(503, "NO_PROVIDER");
        // The one slot that is left is taken by the call that is still running.
        hub.post("/v1/call/text.upper", &json!("c"))
            .await
            .is_problem(503, "OVERLOADED");
    }
    spoke.respond(&running, json!("B")).await;
    assert_eq!(client.expect("call.responded").await["payload"]["requestId"], "running");
    let input = json!("d");
    let (answer, ()) = tokio::join!(one.post("/v1/call/text.upper", &input), async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("D")).await;
    });
    assert_eq!(answer.body["data"], "D", "{answer:?}");
}

#[tokio::test]
async fn the_other_hubs_hear_of_a_drain_before_its_delay_ends() {
    let redis = RedisServer::start().await;
    let mut schema = None;
    let mut start = || {
        starting_hub(|config| {
            config.events.redis_url = Some(redis.url().into());
            config.server.drain_delay = Duration::from_secs(3_600);
            // Otherwise the next renewal of the lease could announce the drain.
            config.events.lease_ttl = Duration::from_secs(3_600);
            config.events.lease_interval = Duration::from_secs(1_200);
            let own = config.store.schema.clone();
            config.store.schema = schema.get_or_insert(own).clone();
        })
    };
    let (one, two) = (start(), start());
    tokio::join!(one.hub.ready(), two.hub.ready());

    let known = until("the drain is known", || async {
        let report = one.get("/v1/admin/hub").await;
        let pods = report.body["data"]["pods"].as_array().cloned().unwrap_or_default();
        let draining: Vec<_> = pods.iter().filter(|pod| pod["draining"] == true).collect();
        match &draining[..] {
            [pod] => Ok(pod["hubId"].clone()),
            _ => Err(report.text),
        }
    });
    let known = tokio::select! {
        hub = known => hub,
        () = two.hub.shutdown() => panic!("the delay is an hour"),
    };

    assert_eq!(known, json!(two.hub.hub_id()));
    assert_eq!(two.management("/livez").await.status, 200, "it still serves");
}
