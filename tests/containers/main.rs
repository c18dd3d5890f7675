//! The images as containers of a Docker engine: two hubs, a Redis and a Postgres, and a call from one to the other.
//!
//! testcontainers starts them; `make containers` runs an engine of its own and loads the images first, for there is
//! no registry to pull them from (docs/TESTING.md).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use alkhub_protocol::ApiKey;
use alkhub_test_support::until;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result};
use serde_json::json;
use testcontainers::core::{AccessMode, ContainerPort, IntoContainerPort as _, Mount, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt as _};
use tokio_util::task::TaskTracker;

const PORT: ContainerPort = ContainerPort::Tcp(7420);
const MANAGEMENT: ContainerPort = ContainerPort::Tcp(7421);

/// Everything of one run; the containers end with it.
struct Stack {
    hubs: Vec<ContainerAsync<GenericImage>>,
    _servers: Vec<ContainerAsync<GenericImage>>,
    key: ApiKey,
    _keys: tempfile::TempDir,
}

impl Stack {
    async fn start() -> Result<Self> {
        let run = uuid::Uuid::new_v4().simple().to_string();
        let network = format!("alkhub-{run}");
        let (redis, postgres) = (format!("redis-{run}"), format!("postgres-{run}"));
        let servers = vec![
            GenericImage::new("redis", "7")
                .with_exposed_port(6379.tcp())
                .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
                .with_network(&network)
                .with_container_name(&redis)
                .start()
                .await
                .context("the image redis:7 is loaded by `make containers`")?,
            GenericImage::new("postgres", "15")
                .with_exposed_port(5432.tcp())
                .with_wait_for(WaitFor::message_on_stderr(
                    "database system is ready to accept connections",
                ))
                .with_network(&network)
                .with_container_name(&postgres)
                .with_env_var("POSTGRES_PASSWORD", "secret")
                .start()
                .await
                .context("the image postgres:15 is loaded by `make containers`")?,
        ];
        let keys = tempfile::tempdir()?;
        // The container's user is another one, and its root is read-only: the keys are mounted, not copied.
        std::fs::set_permissions(keys.path(), Permissions::from_mode(0o755))?;
        let key = alkhub_tests::keys::write(keys.path())?;
        let mut hubs = Vec::new();
        for n in 0..2 {
            let request = hub(n, keys.path())
                .with_network(&network)
                .with_env_var("ALKHUB_EVENTS__REDIS_URL", format!("redis://{redis}:6379"))
                .with_env_var(
                    "ALKHUB_STORE__DATABASE_URL",
                    format!("postgres://postgres:secret@{postgres}:5432/postgres"),
                );
            hubs.push(request.start().await.context("a hub's container")?);
        }
        let stack = Self {
            _keys: keys,
            hubs,
            _servers: servers,
            key,
        };
        for hub in 0..2 {
            stack.ready(hub).await?;
        }
        Ok(stack)
    }

    async fn url(&self, hub: usize, port: ContainerPort) -> Result<String> {
        let container = &self.hubs[hub];
        Ok(format!(
            "http://127.0.0.1:{}",
            container.get_host_port_ipv4(port).await?
        ))
    }

    async fn ready(&self, hub: usize) -> Result<()> {
        let url = format!("{}/readyz", self.url(hub, MANAGEMENT).await?);
        until("the hub's container is ready", || async {
            let answer = reqwest::get(&url).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = answer.text().await.map_err(|error| error.to_string())?;
            if status.is_success() && body.contains("\"ok\"") {
                Ok(())
            } else {
                Err(format!("{status}: {body}"))
            }
        })
        .await;
        Ok(())
    }
}

/// The image that `make images` built, as user 65532 on a read-only root.
fn hub(n: usize, keys: &Path) -> ContainerRequest<GenericImage> {
    GenericImage::new("alkhub/hub", env!("CARGO_PKG_VERSION"))
        .with_exposed_port(PORT)
        .with_exposed_port(MANAGEMENT)
        .with_readonly_rootfs(true)
        .with_mount(Mount::bind_mount(keys.to_string_lossy(), "/etc/alkhub").with_access_mode(AccessMode::ReadOnly))
        .with_env_var("ALKHUB_AUTH__HASH_KEY_FILE", "/etc/alkhub/hash.key")
        .with_env_var("ALKHUB_AUTH__ADMIN_KEY_FILE", "/etc/alkhub/admin.key")
        .with_env_var("ALKHUB_SERVER__LISTEN", "0.0.0.0:7420")
        .with_env_var("ALKHUB_SERVER__MANAGEMENT_LISTEN", "0.0.0.0:7421")
        .with_env_var("ALKHUB_POD__NAME", format!("hub-{n}"))
        .with_cmd(["serve"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_crosses_two_containers() -> Result<()> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let stack = Stack::start().await?;
    let mut spoke = Peer::connect(&stack.url(1, PORT).await?, stack.key.expose()).await?;
    spoke.register("t", json!([operation("t", "echo", "query")])).await?;
    let http = Http::new(stack.url(0, PORT).await?, stack.key.expose());
    until("the other container knows the spoke", || async {
        let answer = http
            .send("GET", "/v1/operations/t.echo", None)
            .await
            .map_err(|error| error.to_string())?;
        let spokes = answer.body["data"]["spokes"].as_array().map_or(0, Vec::len);
        if spokes == 1 {
            Ok(())
        } else {
            Err(answer.body.to_string())
        }
    })
    .await;

    let caller = TaskTracker::new().spawn(async move { http.call("t.echo", &json!({ "n": 1 })).await });
    spoke.echo().await?;
    let answer = caller.await??;

    assert_eq!((answer.status, &answer.body["data"]), (200, &json!({ "n": 1 })));
    Ok(())
}
