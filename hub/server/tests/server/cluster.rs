//! Two hubs that share Redis and Postgres: what one is told, the other does.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use alkhub_config::HubConfig;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Answer, TestHub, starting_hub, until};
use crate::wire::{Dialect, Wire, operation};

/// A Redis of one test's own.
struct Redis {
    process: Child,
    port: u16,
    _folder: TempDir,
}

// === impl Redis ===

impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a free port")
            .port();
        let folder = tempfile::tempdir().expect("a folder");
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
            ])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("Debian's Redis is installed");
        Self {
            process,
            port,
            _folder: folder,
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Two ready hubs of one Hub resource.
async fn pair(redis: &Redis) -> (TestHub, TestHub) {
    let mut shared: Option<HubConfig> = None;
    let mut start = || {
        starting_hub(|config| {
            config.events.redis_url = Some(redis.url().into());
            config.hub.uid = "uid-1".to_owned();
            match &shared {
                Some(first) => config.store.schema = first.store.schema.clone(),
                None => shared = Some(config.clone()),
            }
        })
    };
    let (one, two) = (start(), start());
    tokio::join!(one.hub.ready(), two.hub.ready());
    (one, two)
}

#[tokio::test]
async fn a_call_an_event_and_a_revocation_cross_from_hub_to_hub() {
    let redis = Redis::start();
    let (one, two) = pair(&redis).await;
    let (key, id) = one.spoke_key("text").await;
    let mut spoke = Wire::connect(&two, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "upper", "query")])
        .await;
    until(|| async {
        let operations = one.get("/v1/operations/text.upper").await;
        if operations.status == 200 {
            Ok(())
        } else {
            Err(operations.text)
        }
    })
    .await;

    let call = one.request(Method::POST, "/v1/call/text.upper").body("\"x\"").send();
    let (answer, ()) = tokio::join!(async { Answer::of(call.await.expect("answered")).await }, async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("X")).await;
    });
    assert_eq!(answer.body["data"], "X", "{answer:?}");

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
    until(|| async {
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
async fn a_second_hub_with_the_same_prefix_stays_unready_and_names_the_first() {
    let redis = Redis::start();
    let (one, _two) = pair(&redis).await;
    let stranger = starting_hub(|config| {
        config.events.redis_url = Some(redis.url().into());
        config.hub.uid = "uid-2".to_owned();
    });

    let report = until(|| async {
        let report = stranger.management("/readyz").await;
        if report.body["prefix"]["state"] == "taken" {
            Ok(report)
        } else {
            Err(report.text)
        }
    })
    .await;

    assert_eq!(report.status, 503);
    assert!(report.text.contains("uid-1"), "{report:?}");
    assert_eq!(one.management("/readyz").await.status, 200);
}

#[tokio::test]
async fn redis_away_degrades_a_hub_and_its_own_calls_go_on() {
    let mut redis = Redis::start();
    let (one, _two) = pair(&redis).await;
    let (key, _) = one.spoke_key("text").await;
    let mut spoke = Wire::connect(&one, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "upper", "query")])
        .await;

    redis.process.kill().expect("killed");
    redis.process.wait().expect("ended");

    let report = until(|| async {
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
    let call = one.request(Method::POST, "/v1/call/text.upper").body("\"x\"").send();
    let (answer, ()) = tokio::join!(async { Answer::of(call.await.expect("answered")).await }, async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("X")).await;
    });
    assert_eq!(answer.body["data"], "X", "{answer:?}");
    one.post("/v1/events/a/1", &json!(1))
        .await
        .is_problem(503, "UNAVAILABLE")
        .names("Redis");
    spoke.send(&json!({ "type": "a", "id": "1", "payload": 1 })).await;
    assert_eq!(spoke.expect("__error").await["payload"]["code"], "ACCESS_DENIED");
}
