//! Hubs as processes that can be ended in every way and come back at the same address, on one Redis and one Postgres.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alkhub_test_support::{Port, RedisServer, process, until_within};
use alkhub_tests::http::Http;
use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// No secret: the hubs listen on loopback and end with the run.
const KEY: [u8; 32] = *b"a soak is nobody's secret at all";
/// Longest time until a hub answers calls again after a fault.
const RECOVERY: Duration = Duration::from_secs(60);

/// All of them, and what they share.
#[derive(Debug)]
pub(crate) struct Hubs {
    program: PathBuf,
    ports: Vec<(Port, Port)>,
    /// Where each takes links of the others, if it does.
    peer_ports: Option<Vec<Port>>,
    processes: Vec<Mutex<Option<Child>>>,
    /// Their Redis; whoever holds it may end it.
    pub(crate) redis: Mutex<RedisServer>,
    redis_url: String,
    database_url: String,
    key: String,
    folder: tempfile::TempDir,
    _postgres: alkhub_devdb::Server,
}

// === impl Hubs ===

impl Hubs {
    /// Starts `count` hubs, with links from pod to pod or without, and waits until they are ready.
    pub(crate) async fn start(program: &Path, count: usize, linked: bool) -> Result<Self> {
        let postgres = alkhub_devdb::Server::temporary().await?;
        let database_url = postgres.create_database("soak").await?;
        let redis = RedisServer::start().await;
        let folder = tempfile::tempdir()?;
        let key = alkhub_protocol::ApiKey::from_entropy(KEY).expose().to_owned();
        std::fs::write(folder.path().join("hash.key"), "a5".repeat(32))?;
        std::fs::write(folder.path().join("admin.key"), &key)?;
        let hubs = Self {
            program: std::path::absolute(program)?,
            ports: (0..count).map(|_| (Port::free(), Port::free())).collect(),
            peer_ports: linked.then(|| (0..count).map(|_| Port::free()).collect()),
            processes: (0..count).map(|_| Mutex::new(None)).collect(),
            redis_url: redis.url(),
            redis: Mutex::new(redis),
            database_url,
            key,
            folder,
            _postgres: postgres,
        };
        for number in 0..count {
            hubs.launch(number).await?;
        }
        for number in 0..count {
            hubs.ready(number).await;
        }
        Ok(hubs)
    }

    /// How many there are, running or not.
    pub(crate) fn count(&self) -> usize {
        self.ports.len()
    }

    /// The address of one.
    pub(crate) fn url(&self, number: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[number].0)
    }

    /// The key of every task of the run.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// A client of one.
    pub(crate) fn http(&self, number: usize) -> Http {
        Http::new(self.url(number), self.key())
    }

    /// Starts one that does not run.
    pub(crate) async fn launch(&self, number: usize) -> Result<()> {
        let file = |name: &str| self.folder.path().join(name).to_string_lossy().into_owned();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(file(&format!("hub-{number}.log")))?;
        let (port, management) = &self.ports[number];
        let mut command = Command::new(&self.program);
        if let Some(ports) = &self.peer_ports {
            command.env("ALKHUB_SERVER__PEER_LISTEN", format!("127.0.0.1:{}", ports[number]));
        }
        let process = command
            .arg("serve")
            .env("ALKHUB_SERVER__LISTEN", format!("127.0.0.1:{port}"))
            .env("ALKHUB_SERVER__MANAGEMENT_LISTEN", format!("127.0.0.1:{management}"))
            .env("ALKHUB_SERVER__DRAIN_TIMEOUT", "5s")
            .env("ALKHUB_STORE__DATABASE_URL", &self.database_url)
            .env("ALKHUB_EVENTS__REDIS_URL", &self.redis_url)
            .env("ALKHUB_AUTH__HASH_KEY_FILE", file("hash.key"))
            .env("ALKHUB_AUTH__ADMIN_KEY_FILE", file("admin.key"))
            .env("ALKHUB_POD__NAME", format!("soak-{number}"))
            .env("ALKHUB_TELEMETRY__LOG_FILTER", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        *self.processes[number].lock().await = Some(process);
        Ok(())
    }

    /// Sends a signal to one that runs.
    pub(crate) async fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        let process = self.processes[number].lock().await;
        let id = process.as_ref().and_then(Child::id).context("the hub runs")?;
        Ok(kill(Pid::from_raw(id.try_into()?), signal)?)
    }

    /// Ends one and waits for it: without a word, or as SIGTERM does.
    pub(crate) async fn end(&self, number: usize, signal: Signal) -> Result<()> {
        self.signal(number, signal).await?;
        let mut process = self.processes[number].lock().await.take().context("the hub runs")?;
        tokio::time::timeout(RECOVERY, process.wait())
            .await
            .context("a hub ends within a minute")??;
        Ok(())
    }

    /// Waits until `/readyz` of one answers 200.
    pub(crate) async fn ready(&self, number: usize) {
        let url = format!("http://127.0.0.1:{}/readyz", self.ports[number].1);
        until_within(&format!("hub {number} is ready"), RECOVERY, || async {
            match reqwest::get(&url).await {
                Ok(answer) if answer.status() == 200 => Ok(()),
                Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Waits until every hub answers a call to a spoke.
    pub(crate) async fn answer(&self) {
        for number in 0..self.count() {
            let http = self.http(number);
            until_within(&format!("hub {number} answers calls"), RECOVERY, || async {
                let answer = http.call("soak.echo", &json!("well?")).await;
                let answer = answer.map_err(|error| format!("{error:#}"))?;
                if answer.body["data"] == "well?" {
                    Ok(())
                } else {
                    Err(format!("{answer:?}"))
                }
            })
            .await;
        }
    }

    /// Resident memory of each in MiB; none of one that does not run.
    pub(crate) fn resident(&self) -> Vec<u64> {
        let of = |process: &Mutex<Option<Child>>| {
            let id = process.try_lock().ok()?.as_ref()?.id()?;
            Some(process::resident_bytes(id).ok()? / (1024 * 1024))
        };
        self.processes.iter().filter_map(of).collect()
    }
}
