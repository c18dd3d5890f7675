//! How a hub starts, lives without Postgres or Redis, and ends.

use alkhub_devdb::Server;
use alkhub_server::{Hub, StartError};
use alkhub_test_support::until;
use reqwest::Method;
use serde_json::json;
use tokio::time::timeout;

use crate::harness::{Answer, LIMIT, TestHub, hub, starting_hub};
use crate::wire::Wire;

async fn ready_is(hub: &TestHub, status: u16, named: &str) -> Answer {
    until(&format!("readyz answers {status} and names `{named}`"), || async {
        let answer = hub.management("/readyz").await;
        if answer.status == status && answer.text.contains(named) {
            Ok(answer)
        } else {
            Err(answer.text)
        }
    })
    .await
}

#[tokio::test]
async fn a_hub_whose_postgres_is_away_keeps_trying_and_says_so() {
    let server = Server::temporary().await.expect("starts");
    server.stop().await.expect("stops");
    let hub = starting_hub(|config| config.store.database_url = Some(server.url().into()));

    let report = ready_is(&hub, 503, "\"postgres\":{\"state\":\"down\"").await;
    assert_eq!(report.body["status"], "starting");
    assert_eq!(hub.management("/livez").await.status, 200);
    let early = hub.request(Method::GET, "/v1/operations").send().await;
    assert!(
        early.is_err_and(|error| error.is_connect()),
        "the port does not listen, so that a client tries again"
    );

    server.start_again().await.expect("starts");
    ready_is(&hub, 200, "\"status\":\"ok\"").await;
    assert_eq!(hub.get("/v1/operations").await.status, 200);

    let (unused, _) = hub.key(&["operations:read"]).await;
    server.stop().await.expect("stops");
    ready_is(&hub, 200, "\"status\":\"degraded\"").await;
    assert_eq!(
        hub.get("/v1/operations").await.status,
        200,
        "a key that is known goes on"
    );
    let unknown = hub
        .as_key(&unused, Method::GET, "/v1/operations")
        .send()
        .await
        .expect("answered");
    Answer::of(unknown).await.is_problem(503, "UNAVAILABLE");
    hub.get("/v1/calls").await.is_problem(503, "UNAVAILABLE");
    hub.hub.shutdown().await;
}

#[tokio::test]
async fn a_hub_whose_redis_is_away_is_not_ready_and_names_it() {
    let hub = starting_hub(|config| config.events.redis_url = Some("redis://127.0.0.1:1/".into()));

    let report = ready_is(&hub, 503, "\"redis\":{\"state\":\"down\"").await;

    assert_eq!(report.body["status"], "starting");
    assert_eq!(hub.management("/livez").await.status, 200);
    hub.hub.shutdown().await;
}

#[tokio::test]
async fn two_hubs_run_in_one_process_and_share_nothing() {
    let (one, two) = tokio::join!(hub(), hub());
    let mut socket = Wire::connect(&two, &two.admin).await;
    socket.text(r#"{"type":"__subscribe","id":"","payload":"a:1"}"#).await;
    socket.expect("__subscribed").await;

    let published = one.post("/v1/events/a/1", &json!(1)).await;

    assert_eq!(published.body["data"]["local"], 0);
    let crossed = one
        .client
        .get(format!("{}/v1/operations", two.hub.url()))
        .bearer_auth(&one.admin);
    assert_eq!(crossed.send().await.expect("answered").status(), 401);
    assert_eq!(one.metric(r#"alkhub_connections{kind="websocket"}"#).await, Some(0.0));
    assert_eq!(two.metric(r#"alkhub_connections{kind="websocket"}"#).await, Some(1.0));
    assert_ne!(one.hub.hub_id(), two.hub.hub_id());
}

#[tokio::test]
async fn what_cannot_start_says_which_setting() {
    let running = hub().await;
    let taken = running.hub.url().replace("http://", "");
    let start = |change: &dyn Fn(&mut alkhub_config::HubConfig)| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = crate::harness::config(folder.path(), &crate::harness::new_key());
        change(&mut config);
        Hub::start(config).map(|_| ()).expect_err("does not start").to_string()
    };

    let errors = [
        (
            start(&|config| config.server.listen = taken.parse().expect("an address")),
            "server.listen",
        ),
        (start(&|config| config.auth.hash_key_file = None), "auth.hash-key-file"),
        (
            start(&|config| config.auth.hash_key_file = config.auth.admin_key_file.clone()),
            "auth.hash-key-file",
        ),
        (
            start(&|config| config.auth.admin_key_file = config.auth.hash_key_file.clone()),
            "auth.admin-key-file",
        ),
        (start(&|config| config.store.database_url = None), "store.database-url"),
        (
            start(&|config| config.server.outbox_messages = 0),
            "server.outbox-messages",
        ),
    ];

    for (error, setting) in errors {
        assert!(error.contains(setting), "{error}");
    }
    assert!(matches!(
        Hub::start(alkhub_config::HubConfig::default()),
        Err(StartError::HashKeyMissing)
    ));
}

#[tokio::test]
async fn metrics_are_there_and_plain() {
    let hub = hub().await;
    let metrics = hub.management("/metrics").await;

    for family in [
        "alkhub_build_info",
        "alkhub_ready",
        "alkhub_connections",
        "alkhub_websocket_messages_total",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.text.contains(&format!("# HELP {family} ")), "{family}");
    }
    assert_eq!(hub.metric("alkhub_ready").await, Some(1.0));
}

#[tokio::test]
async fn a_hub_that_loses_a_loop_is_unready_names_it_and_asks_to_be_ended() {
    let hub = hub().await;
    assert_eq!(
        hub.metric("alkhub_loops_lost_total{loop=\"calls.hubs\"}").await,
        Some(0.0)
    );

    hub.hub.supervisor().keep("test.loop", async { panic!("for the test") });

    let reason = timeout(LIMIT, hub.hub.failed()).await.expect("it cannot go on");
    assert_eq!(reason, "loop `test.loop` panicked: for the test");
    let answer = ready_is(&hub, 503, "test.loop").await;
    assert_eq!(
        (&answer.body["status"], &answer.body["loops"]["state"]),
        (&json!("failed"), &json!("lost"))
    );
    assert_eq!(
        hub.metric("alkhub_loops_lost_total{loop=\"test.loop\"}").await,
        Some(1.0)
    );
    hub.hub.shutdown().await;
}
