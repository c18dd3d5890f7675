//! Hubs as processes that can be ended in every way and come back at the same address, on one Redis and one Postgres.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alkhub_devdb::{Server, testing};
use alkhub_test_support::{Port, RedisServer, process, until, until_within};
use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::http::Http;
use crate::keys;

/// The longest that a hub may take to answer calls again after a fault.
pub const RECOVERY: Duration = Duration::from_secs(60);

/// What the hubs are to be like.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The binary `alkhub`.
    pub program: &'a Path,
    /// How many.
    pub count: usize,
    /// Whether they have links from pod to pod.
    pub linked: bool,
    /// Whether they have a Postgres of their own, which may be killed; otherwise they use that of all tests of the
    /// program.
    pub own_postgres: bool,
    /// Settings besides the usual ones, as environment variables.
    pub settings: &'a [(&'a str, &'a str)],
}

/// All of them, and what they share.
#[derive(Debug)]
pub struct Hubs {
    program: PathBuf,
    ports: Vec<(Port, Port)>,
    /// Where each of them takes links of the others, if it does.
    peer_ports: Option<Vec<Port>>,
    processes: Vec<Mutex<Option<Child>>>,
    /// Their Redis; whoever holds it may end it.
    pub redis: Mutex<RedisServer>,
    redis_url: String,
    postgres: Option<Server>,
    database_url: String,
    key: String,
    settings: Vec<(String, String)>,
    folder: tempfile::TempDir,
    management: reqwest::Client,
}

// === impl Hubs ===

impl Hubs {
    /// Starts them, and waits until they are ready and know each other.
    ///
    /// # Errors
    /// A server does not start, or the binary is missing.
    ///
    /// # Panics
    /// They are not ready within a minute.
    pub async fn start(plan: Plan<'_>) -> Result<Self> {
        let postgres = match plan.own_postgres {
            true => Some(Server::temporary().await?),
            false => None,
        };
        let database_url = match &postgres {
            Some(postgres) => postgres.create_database("hubs").await?,
            None => testing::database().await,
        };
        let redis = RedisServer::start().await;
        let folder = tempfile::tempdir()?;
        let key = keys::write(folder.path())?.expose().to_owned();
        let set = plan.settings.iter();
        let hubs = Self {
            program: std::path::absolute(plan.program)?,
            ports: (0..plan.count).map(|_| (Port::free(), Port::free())).collect(),
            peer_ports: plan.linked.then(|| (0..plan.count).map(|_| Port::free()).collect()),
            processes: (0..plan.count).map(|_| Mutex::new(None)).collect(),
            redis_url: redis.url(),
            redis: Mutex::new(redis),
            postgres,
            database_url,
            key,
            settings: set
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            folder,
            management: reqwest::Client::new(),
        };
        for number in 0..plan.count {
            hubs.launch(number).await?;
        }
        for number in 0..plan.count {
            hubs.ready(number).await;
        }
        hubs.know_each_other().await;
        Ok(hubs)
    }

    /// How many there are, running or not.
    pub fn count(&self) -> usize {
        self.ports.len()
    }

    /// The address of one, `host:port`.
    pub fn address(&self, number: usize) -> String {
        format!("127.0.0.1:{}", self.ports[number].0)
    }

    /// The URL of one.
    pub fn url(&self, number: usize) -> String {
        format!("http://{}", self.address(number))
    }

    /// The key with every scope.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A client of one.
    pub fn http(&self, number: usize) -> Http {
        Http::new(self.url(number), self.key())
    }

    /// The name of its pod, with which its `hubId` begins.
    pub fn pod(number: usize) -> String {
        format!("hub-{number}")
    }

    /// Starts one that is not running.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn launch(&self, number: usize) -> Result<()> {
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
            .env("ALKHUB_POD__NAME", Self::pod(number))
            .env("ALKHUB_TELEMETRY__LOG_FILTER", "warn")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
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
    ///
    /// # Errors
    /// It is not running.
    pub async fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        let process = self.processes[number].lock().await;
        let id = process.as_ref().and_then(Child::id).context("the hub runs")?;
        Ok(kill(Pid::from_raw(id.try_into()?), signal)?)
    }

    /// Ends one and waits for it: by surprise, or as SIGTERM does.
    ///
    /// # Errors
    /// It does not run, or does not end within a minute.
    pub async fn end(&self, number: usize, signal: Signal) -> Result<()> {
        self.signal(number, signal).await?;
        self.ended(number).await
    }

    /// Waits for one that has been told to end.
    ///
    /// # Errors
    /// As [`Hubs::end`].
    pub async fn ended(&self, number: usize) -> Result<()> {
        let mut process = self.processes[number].lock().await.take().context("the hub runs")?;
        tokio::time::timeout(RECOVERY, process.wait())
            .await
            .context("a hub ends within a minute")??;
        Ok(())
    }

    /// Kills their Postgres without a word. It must be their own.
    ///
    /// # Errors
    /// It is not, or does not run.
    pub async fn kill_postgres(&self) -> Result<()> {
        let postgres = self.postgres.as_ref().context("a Postgres of their own")?;
        let id = postgres.pid().await.context("it runs")?;
        kill(Pid::from_raw(id.try_into()?), Signal::SIGKILL)?;
        // Waits for it.
        Ok(postgres.stop().await?)
    }

    /// Starts it again, with its data.
    ///
    /// # Errors
    /// It is not their own.
    ///
    /// # Panics
    /// It does not start in time: what its killed predecessor left behind takes a moment to end.
    pub async fn restart_postgres(&self) -> Result<()> {
        let postgres = self.postgres.as_ref().context("a Postgres of their own")?;
        until("Postgres starts again", || postgres.start_again()).await;
        Ok(())
    }

    /// Waits until `/readyz` of one answers 200.
    ///
    /// # Panics
    /// It does not within a minute.
    pub async fn ready(&self, number: usize) {
        until_within(&format!("hub {number} is ready"), RECOVERY, || async {
            let (status, body) = self.readiness(number).await?;
            if status == 200 { Ok(()) } else { Err(body.to_string()) }
        })
        .await;
    }

    /// What `/readyz` of one answers.
    ///
    /// # Errors
    /// It does not answer, or not with JSON.
    pub async fn readiness(&self, number: usize) -> Result<(u16, Value), String> {
        let (status, body) = self.managed(number, "/readyz").await?;
        let body = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        Ok((status, body))
    }

    /// Waits until the metrics of one contain this text, which begins with the end of a line, no longer than `limit`.
    ///
    /// # Panics
    /// They do not.
    pub async fn shows(&self, number: usize, line: &str, limit: Duration) {
        let what = format!("hub {number} shows {}", line.trim());
        until_within(&what, limit, || async {
            let (_, text) = self.managed(number, "/metrics").await?;
            if text.contains(line) {
                return Ok(());
            }
            let name = line.trim().split([' ', '{']).next().unwrap_or_default();
            let of_name = text.lines().filter(|line| line.starts_with(name));
            Err(of_name.collect::<Vec<_>>().join("\n"))
        })
        .await;
    }

    /// Resident memory of each in MiB, without those that are not running.
    pub fn resident(&self) -> Vec<u64> {
        let of = |process: &Mutex<Option<Child>>| {
            let id = process.try_lock().ok()?.as_ref()?.id()?;
            Some(process::resident_bytes(id).ok()? / (1024 * 1024))
        };
        self.processes.iter().filter_map(of).collect()
    }

    async fn know_each_other(&self) {
        let count = self.count();
        for number in 0..count {
            self.shows(number, &format!("\nalkhub_events_hubs {count}\n"), RECOVERY)
                .await;
            if self.peer_ports.is_some() {
                self.shows(number, &format!("\nalkhub_peer_links {}\n", count - 1), RECOVERY)
                    .await;
            }
        }
    }

    /// What the management listener of one answers.
    async fn managed(&self, number: usize, path: &str) -> Result<(u16, String), String> {
        let url = format!("http://127.0.0.1:{}{path}", self.ports[number].1);
        let answer = self.management.get(url).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.map_err(|error| error.to_string())?))
    }
}
