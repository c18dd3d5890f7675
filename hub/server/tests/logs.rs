//! What the log must never contain. Alone in its process, because what a thread logs depends on what other subscribers
//! listen to.

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "server/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "server/wire.rs"]
mod wire;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Method;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use harness::{Answer, hub};
use wire::{Dialect, Wire, operation, request};

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// At the `debug` level, with everything that the crates of alkhub log.
#[tokio::test]
async fn keys_tokens_and_payloads_are_never_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("debug,hyper=trace,sqlx=debug")
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    spoke
        .register(Dialect::Origin, &[operation("text", "upper", "query")])
        .await;
    let url = format!("{}/v1/call/text.upper?access_token={}", hub.hub.url(), hub.admin);

    let call = hub.client.post(&url).body("\"PAYLOAD-IN\"").send();
    let (answer, ()) = tokio::join!(async { Answer::of(call.await.expect("answered")).await }, async {
        let call = spoke.expect("call.requested").await;
        spoke.respond(&call, json!("PAYLOAD-OUT")).await;
    });
    hub.post("/v1/events/a/1", &json!("PAYLOAD-EVENT")).await;
    spoke.text("{\"type\":\"PAYLOAD-BROKEN").await;
    spoke.expect("__error").await;
    let wrong = harness::new_key();
    Wire::refused(request(&hub, Some(&wrong))).await;
    hub.as_key(&wrong, Method::GET, "/v1/calls")
        .send()
        .await
        .expect("answered");
    hub.hub.shutdown().await;
    drop(guard);

    assert_eq!(answer.body["data"], "PAYLOAD-OUT", "{answer:?}");
    let log = String::from_utf8(log.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("UTF-8");
    let ours: String = log.lines().filter(|line| line.contains("alkhub")).collect();
    assert!(
        ours.contains("the hub starts") && ours.contains("a key was made"),
        "{ours}"
    );
    for secret in [key.as_str(), hub.admin.as_str(), wrong.as_str(), "PAYLOAD"] {
        let line = log
            .lines()
            .find(|line| line.contains(secret) && !line.contains("reqwest") && !line.contains("tungstenite"));
        assert_eq!(line, None);
    }
}
