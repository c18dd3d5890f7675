//! A hub on free ports with a schema of its own in one private Postgres that all tests share.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use alkhub_config::{HubConfig, SchemaName};
use alkhub_devdb::Server;
use alkhub_protocol::ApiKey;
use alkhub_server::Hub;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

/// The longest wait for one thing, unless a test sets another limit.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

static SCHEMAS: AtomicU32 = AtomicU32::new(0);

/// A running hub with what it needs; it ends with the test.
pub(crate) struct TestHub {
    pub(crate) hub: Hub,
    pub(crate) admin: String,
    pub(crate) client: Client,
    schema: SchemaName,
    folder: TempDir,
}

/// The Postgres of this test binary; it ends with the process.
pub(crate) fn postgres() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let server = runtime.expect("a runtime").block_on(Server::temporary());
            server.expect("Debian's PostgreSQL is installed")
        })
        .join()
        .expect("Postgres starts")
    })
}

/// Settings of a hub on free ports; its secrets are in `folder`.
pub(crate) fn config(folder: &std::path::Path, admin: &str) -> HubConfig {
    let file = |name: &str, text: &str| -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let mut config = HubConfig::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.management_listen = ([127, 0, 0, 1], 0).into();
    config.auth.hash_key_file = Some(file("hash.key", &"5a".repeat(32)));
    config.auth.admin_key_file = Some(file("admin.key", admin));
    config.store.database_url = Some(postgres().url().into());
    let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
    config.store.schema = format!("server_{number}").parse().expect("a schema's name");
    config.store.max_connections = 4;
    config
}

/// A key that was never used.
pub(crate) fn new_key() -> String {
    ApiKey::from_entropy(rand::random()).expose().to_owned()
}

/// A ready hub with the default settings.
pub(crate) async fn hub() -> TestHub {
    hub_with(|_| {}).await
}

/// A ready hub with other settings.
pub(crate) async fn hub_with(change: impl FnOnce(&mut HubConfig)) -> TestHub {
    let hub = starting_hub(change);
    timeout(LIMIT, hub.hub.ready()).await.expect("ready in time");
    hub
}

/// A hub that may not be ready yet.
pub(crate) fn starting_hub(change: impl FnOnce(&mut HubConfig)) -> TestHub {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let folder = tempfile::tempdir().expect("a folder");
    let admin = new_key();
    let mut config = config(folder.path(), &admin);
    change(&mut config);
    let schema = config.store.schema.clone();
    TestHub {
        schema,
        hub: Hub::start(config).expect("starts"),
        admin,
        client: Client::new(),
        folder,
    }
}

/// Waits until nothing of this kind is kept any more.
pub(crate) async fn nothing_is_kept(hub: &TestHub, kept: &str) {
    alkhub_test_support::until("everything is given back", || async {
        match hub.metric(&format!("alkhub_budget_bytes{{kept=\"{kept}\"}}")).await {
            Some(0.0) => Ok(()),
            bytes => Err(format!("{kept}: {bytes:?}")),
        }
    })
    .await;
}

/// Waits until exactly this many calls are running.
pub(crate) async fn in_flight(hub: &TestHub, calls: u32) {
    alkhub_test_support::until("so many calls run", || async {
        match hub.metric("alkhub_calls_in_flight").await {
            running if running == Some(f64::from(calls)) => Ok(()),
            running => Err(format!("{running:?}")),
        }
    })
    .await;
}

// === impl TestHub ===

impl TestHub {
    /// The Postgres schema of its tables.
    pub(crate) fn schema(&self) -> &SchemaName {
        &self.schema
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Runs a statement on a connection of the test's own.
    pub(crate) async fn execute(&self, sql: &str) {
        let mut psql = tokio::process::Command::new("psql");
        let done = psql
            .arg(postgres().url())
            .args(["-q", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        assert!(done.status().await.expect("psql is installed").success(), "{sql}");
    }

    /// A request with the admin's key.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.as_key(&self.admin, method, path)
    }

    pub(crate) fn as_key(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.hub.url()))
            .bearer_auth(key)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).send().await.expect("answered")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.request(Method::POST, path).body(body.to_string());
        Answer::of(request.send().await.expect("answered")).await
    }

    /// A request to the management listener.
    pub(crate) async fn management(&self, path: &str) -> Answer {
        let url = format!("{}{path}", self.hub.management_url());
        Answer::of(self.client.get(url).send().await.expect("answered")).await
    }

    /// Makes a key with scopes; returns its text and its id.
    pub(crate) async fn key(&self, scopes: &[&str]) -> (String, String) {
        self.made(&json!({ "name": "test", "scopes": scopes })).await
    }

    /// Makes a key for a spoke that no resource declares.
    pub(crate) async fn spoke_key(&self, spoke: &str) -> (String, String) {
        self.made(&json!({ "name": "test", "scopes": ["spoke"], "spoke": spoke }))
            .await
    }

    /// Makes a key as described; returns its text and its id.
    pub(crate) async fn made(&self, create: &Value) -> (String, String) {
        let answer = self.post("/v1/admin/keys", create).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let text = |field: &str| answer.body["data"][field].as_str().expect("a text").to_owned();
        (text("key"), text("id"))
    }

    /// Declares a spoke: its uid, its key, and what it is allowed.
    pub(crate) async fn declare(&self, spoke: &str, declaration: &Value) {
        let request = self.request(Method::PUT, &format!("/v1/admin/spokes/{spoke}"));
        let request = request.body(declaration.to_string());
        let answer = Answer::of(request.send().await.expect("answered")).await;
        assert!(answer.status < 300, "{answer:?}");
    }

    /// The value of a metric's series; `series` is the text before the value.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.management("/metrics").await.text;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

// === impl Answer ===

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("read");
        Self {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Checks that it is a problem document with a status and a code.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> &Self {
        assert_eq!(
            (self.status, self.body["code"].as_str()),
            (status, Some(code)),
            "{self:?}"
        );
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.body["type"], format!("urn:alkhub:problem:{code}"), "{self:?}");
        assert_eq!(self.body["status"], status, "{self:?}");
        assert_eq!(self.body["instance"], self.header("x-request-id"), "{self:?}");
        assert!(
            self.body["retryable"].is_boolean() && self.body["delivered"].is_string(),
            "{self:?}"
        );
        self
    }

    /// Checks that a problem's detail contains this text.
    #[track_caller]
    pub(crate) fn names(&self, text: &str) {
        let detail = self.body["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(text), "`{text}` is not in `{detail}`");
    }
}
