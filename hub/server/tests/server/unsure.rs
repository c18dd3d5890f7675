//! Writes of the admin API whose answer is lost between Postgres and the hub: they may have been made, so the hub
//! answers 503.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_devdb::Server;
use alkhub_devdb::testing::server_in;
use alkhub_test_support::{Direction, Port, Proxy, until};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Answer, TestHub, hub_with, new_key};
use crate::wire::Wire;

/// A hub with a proxy between it and a Postgres of its own, in which a commit that ends a key waits as long as
/// `public.held` has a row.
struct Unsure {
    hub: TestHub,
    proxy: Proxy,
    postgres: Server,
    _folder: TempDir,
}

// === impl Unsure ===

impl Unsure {
    async fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), Port::free());
        let postgres = server_in(folder.path(), port.number()).await;
        let server = format!("127.0.0.1:{}", port.number());
        let proxy = Proxy::start(server).await.expect("a port");
        let url = format!("postgres://alkhub:secret@{}/postgres", proxy.address());
        let hub = hub_with(|config: &mut HubConfig| {
            config.store.database_url = Some(url.into());
            config.store.ping_interval = Duration::from_millis(200);
            // Keys must not be looked up again on their own while the test runs.
            config.auth.cache_ttl = Duration::from_secs(300);
        })
        .await;
        let slow = format!(
            "CREATE TABLE public.held (n int);
             SET search_path = {};
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN WHILE EXISTS (SELECT FROM public.held) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON keys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
             WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION slow()",
            hub.schema()
        );
        psql(&postgres, &slow).await;
        Self {
            hub,
            proxy,
            postgres,
            _folder: folder,
        }
    }

    /// A connection with the key of a spoke that is declared.
    async fn connected(&self, spoke: &str) -> Wire {
        let key = new_key();
        let declaration = json!({ "uid": "u-1", "key": key });
        until("the spoke is declared", async || {
            let request = self.put(spoke).body(declaration.to_string());
            let answer = Answer::of(request.send().await.expect("answered")).await;
            if answer.status < 300 { Ok(()) } else { Err(answer.text) }
        })
        .await;
        Wire::connect(&self.hub, &key).await
    }

    fn put(&self, spoke: &str) -> RequestBuilder {
        self.hub.request(Method::PUT, &format!("/v1/admin/spokes/{spoke}"))
    }

    /// Sends a request that ends the key of a spoke, and loses Postgres' answer to the commit.
    async fn loses(&self, spoke: &str, request: RequestBuilder) -> Answer {
        psql(&self.postgres, "INSERT INTO public.held VALUES (1)").await;
        let losing = async {
            self.counts(
                1,
                "pg_locks WHERE relation = 'public.held'::regclass AND pid <> pg_backend_pid()",
            )
            .await;
            self.proxy.hold_one(Direction::ToClient);
            psql(&self.postgres, "DELETE FROM public.held").await;
            let in_force = format!(
                "{}.keys WHERE spoke = '{spoke}' AND spoke_uid = 'u-1' AND revoked_at IS NULL",
                self.hub.schema()
            );
            self.counts(0, &in_force).await;
            self.proxy.cut();
            self.proxy.heal();
        };
        let (answered, ()) = tokio::join!(request.send(), losing);
        Answer::of(answered.expect("answered")).await
    }

    async fn counts(&self, wanted: u32, rows: &str) {
        until(rows, async || {
            let count = psql(&self.postgres, &format!("SELECT count(*) FROM {rows}")).await;
            if count == wanted.to_string() {
                Ok(())
            } else {
                Err(count)
            }
        })
        .await;
    }
}

/// Runs statements on a connection of the test's own; returns their output.
async fn psql(server: &Server, sql: &str) -> String {
    let mut psql = tokio::process::Command::new("psql");
    let done = psql
        .arg(server.url())
        .args(["-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    let done = done.output().await.expect("psql is installed");
    assert!(done.status.success(), "{sql}: {done:?}");
    String::from_utf8(done.stdout).expect("text").trim().to_owned()
}

#[tokio::test]
async fn a_key_that_ended_by_a_write_whose_answer_was_lost_ends_its_sockets() {
    let unsure = Unsure::start().await;
    let hub = &unsure.hub;
    let anew = json!({ "uid": "u-2", "key": new_key() }).to_string();
    let writes = [
        ("deleted", hub.request(Method::DELETE, "/v1/admin/spokes/deleted")),
        (
            "swept",
            hub.request(Method::POST, "/v1/admin/spokes/sweep")
                .body(r#"{"uids":[]}"#),
        ),
        ("replaced", unsure.put("replaced").body(anew)),
    ];

    for (spoke, write) in writes {
        let mut socket = unsure.connected(spoke).await;

        let answer = unsure.loses(spoke, write).await;

        answer.is_problem(503, "UNAVAILABLE");
        assert_eq!(socket.closed().await.0, 4401, "{spoke}");
    }
}
