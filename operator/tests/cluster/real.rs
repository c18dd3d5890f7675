//! A whole hub in the test's process, with the keys of the Secret that the operator made for its Hub: so what its
//! database loses, and what the operator does about that, is real.

use std::path::Path;

use alkhub_config::HubConfig;
use alkhub_devdb::testing;
use alkhub_server::Hub;
use alkhub_test_support::Port;
use k8s_openapi::api::core::v1::Secret;
use tempfile::TempDir;

use crate::harness::{World, eventually};

/// Where the hub of a test will listen.
pub(crate) struct Place(Port);

/// A running hub on a database of its own.
pub(crate) struct Real {
    hub: Hub,
    database: String,
    folder: TempDir,
}

// === impl Place ===

impl Place {
    pub(crate) fn free() -> Self {
        Self(Port::free())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.0)
    }

    /// A hub with the keys in the Secret `demo-auth`, ready; with the `database` of an earlier one, or a new one.
    pub(crate) async fn hub(&self, world: &World, database: Option<String>) -> Real {
        let secret = world
            .until::<Secret>("demo-auth", "the keys of the Hub", |_| true)
            .await;
        let database = match database {
            Some(database) => database,
            None => testing::database().await,
        };
        let folder = tempfile::tempdir().expect("a folder");
        for key in ["hash-key", "admin-key"] {
            write(folder.path(), key, &text(&secret, key));
        }
        let mut config = HubConfig::default();
        config.hub.uid = "uid-of-the-test".to_owned();
        config.server.listen = ([127, 0, 0, 1], self.0.number()).into();
        config.server.management_listen = ([127, 0, 0, 1], 0).into();
        config.server.bad_keys_per_minute = 10_000;
        config.auth.hash_key_file = Some(folder.path().join("hash-key"));
        config.auth.admin_key_file = Some(folder.path().join("admin-key"));
        config.store.database_url = Some(database.clone().into());
        config.store.ping_interval = std::time::Duration::from_millis(500);
        config.store.max_connections = 4;
        let hub = Hub::start(config).expect("a hub starts");
        eventually("the hub is ready", || async {
            let ready = tokio::time::timeout(std::time::Duration::from_secs(1), hub.ready()).await;
            ready.map_err(|_| format!("{:?}", hub.away()))
        })
        .await;
        Real { hub, database, folder }
    }
}

// === impl Real ===

impl Real {
    /// Copies the Secret's admin key into the hub's file, as a kubelet does after a while.
    pub(crate) async fn bring_admin_key(&self, world: &World) {
        let secret = world.api::<Secret>().get("demo-auth").await.expect("a Secret");
        write(self.folder.path(), "admin-key", &text(&secret, "admin-key"));
    }

    /// Runs statements in the hub's schema.
    pub(crate) async fn sql(&self, sql: &str) {
        let mut psql = tokio::process::Command::new("psql");
        let sql = format!("SET search_path = alkhub; {sql}");
        let done = psql
            .arg(&self.database)
            .args(["-q", "-v", "ON_ERROR_STOP=1", "-c", &sql]);
        assert!(done.status().await.expect("psql is installed").success(), "{sql}");
    }

    /// The HTTP status that a key gets.
    pub(crate) async fn status(&self, key: &str) -> u16 {
        let request = reqwest::Client::new().get(format!("{}/v1/operations", self.hub.url()));
        request
            .bearer_auth(key)
            .send()
            .await
            .expect("answered")
            .status()
            .as_u16()
    }

    /// Waits until a key gets this status.
    pub(crate) async fn until_status(&self, key: &str, status: u16, what: &str) {
        eventually(what, || async {
            let now = self.status(key).await;
            if now == status {
                Ok(())
            } else {
                Err(format!("HTTP {now}"))
            }
        })
        .await;
    }

    /// What the hub reports of a spoke to the admin.
    pub(crate) async fn spoke(&self, admin: &str, name: &str) -> serde_json::Value {
        let url = format!("{}/v1/admin/spokes/{name}", self.hub.url());
        let answer = reqwest::Client::new()
            .get(url)
            .bearer_auth(admin)
            .send()
            .await
            .expect("answered");
        let answer: serde_json::Value = answer.json().await.expect("JSON");
        answer["data"].clone()
    }

    /// Ends it as SIGTERM would; its database stays.
    pub(crate) async fn end(self) -> String {
        self.hub.shutdown().await;
        self.database
    }
}

/// One text of a Secret.
pub(crate) fn text(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    String::from_utf8(value.unwrap_or_else(|| panic!("`{key}` in {secret:?}")).0.clone()).expect("text")
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
}
