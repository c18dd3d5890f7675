//! A private Redis server for one test, from Debian's binary.
//!
//! It is up when *this* process says so in its own output. That somebody answers on the port proves nothing: it may be
//! another server, while ours has already ended because it could not bind.

use std::fs::File;
use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::{AsyncConnectionConfig, Client, FromRedisValue};
use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{PATIENCE, Port, Proxy, process, until};

/// How often another port is tried when somebody takes the chosen one first.
const ATTEMPTS: usize = 5;

/// What Redis writes when it serves, and when it cannot bind.
const SERVES: &str = "Ready to accept connections";
const PORT_TAKEN: &str = "Address already in use";

/// A Redis server on loopback that keeps nothing on disk and ends with this value.
#[derive(Debug)]
pub struct RedisServer {
    process: Option<Child>,
    port: Port,
    folder: TempDir,
}

// === impl RedisServer ===

impl RedisServer {
    /// A server that answers.
    ///
    /// # Panics
    /// As [`RedisServer::launch`]; when its port is taken, others are tried first.
    pub async fn start() -> Self {
        let mut more = 1..ATTEMPTS;
        loop {
            let mut server = Self::reserve();
            match server.try_launch(&[]).await {
                Ok(()) => return server,
                Err(ended) if ended.contains(PORT_TAKEN) && more.next().is_some() => {}
                Err(ended) => panic!("{ended}"),
            }
        }
    }

    /// A server that does not run yet.
    ///
    /// # Panics
    /// There is no port or no folder for it.
    pub fn reserve() -> Self {
        Self {
            process: None,
            port: Port::free(),
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Starts it on its port, with nothing in it, for the first time or again.
    ///
    /// # Panics
    /// It runs, is not installed, ends at once (its last words are in the message), or does not serve in time.
    pub async fn launch(&mut self) {
        self.launch_with(&[]).await;
    }

    /// [`RedisServer::launch`] with settings of its own.
    ///
    /// # Panics
    /// As [`RedisServer::launch`].
    pub async fn launch_with(&mut self, settings: &[&str]) {
        if let Err(ended) = self.try_launch(settings).await {
            panic!("{ended}");
        }
    }

    /// Starts it and waits until it serves; its last words when it ends instead.
    async fn try_launch(&mut self, settings: &[&str]) -> Result<(), String> {
        assert!(self.process.is_none(), "a server is killed before it is launched again");
        let output = self.output();
        let log = File::create(&output).expect("the folder is ours");
        let mut process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .args(settings)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("an open file"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed (Debian: redis-server)");
        let what = format!("Redis serves on port {}", self.port);
        until(&what, || ready(look(&mut process, &output))).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it without a word; it may not run.
    ///
    /// # Panics
    /// The process cannot be waited for.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.expect("the server is ours");
        }
    }

    /// Stops it in the middle of whatever it does: it keeps its connections and answers nothing.
    ///
    /// # Panics
    /// It does not run.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on after [`RedisServer::freeze`].
    ///
    /// # Panics
    /// It does not run.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A proxy in front of it, and the URL that leads through the proxy.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn proxied(&self) -> io::Result<(Proxy, String)> {
        let proxy = Proxy::start(self.address()).await?;
        let url = format!("redis://{}", proxy.address());
        Ok((proxy, url))
    }

    /// Its folder, which goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// CPU time that it has used, of user and system.
    ///
    /// # Errors
    /// It has ended.
    ///
    /// # Panics
    /// It was not started.
    pub fn cpu(&self) -> Result<Duration> {
        process::cpu(self.id())
    }

    /// A connection of the test's own.
    ///
    /// # Panics
    /// The server is away.
    pub async fn client(&self) -> MultiplexedConnection {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        Client::open(self.url())
            .expect("a URL")
            .get_multiplexed_async_connection_with_config(&settings)
            .await
            .expect("the server runs")
    }

    /// A connection that only listens, like a process of the origin.
    ///
    /// # Panics
    /// The server is away.
    pub async fn listener(&self) -> PubSub {
        let client = Client::open(self.url()).expect("a URL");
        client.get_async_pubsub().await.expect("the server runs")
    }

    /// What it answers to one command.
    ///
    /// # Panics
    /// The server is away, refuses the command, or answers something else than a `T`.
    pub async fn query<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = ::redis::Cmd::new();
        command.arg(words);
        command.query_async(&mut self.client().await).await.expect("a command")
    }

    fn id(&self) -> u32 {
        self.process.as_ref().and_then(Child::id).expect("the server runs")
    }

    fn signal(&self, signal: Signal) {
        let id = self.id().try_into().expect("a process id");
        kill(Pid::from_raw(id), signal).expect("the server is ours");
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }
}

/// Whether the process serves: `Ok` is the end of waiting, with its last words when it has ended.
fn look(process: &mut Child, output: &Path) -> Result<Result<(), String>, String> {
    let status = process.try_wait().expect("the server is ours");
    // Read after the status: what an ended process wrote is complete.
    let written = std::fs::read_to_string(output).unwrap_or_default();
    match status {
        Some(status) => Ok(Err(format!("redis-server ended ({status}); it wrote:\n{written}"))),
        None if written.contains(SERVES) => Ok(Ok(())),
        None => Err(written),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_server_comes_back_empty_on_its_port() {
        let mut redis = RedisServer::start().await;
        redis.query::<()>(&["SET", "a", "1"]).await;
        let url = redis.url();

        redis.kill().await;
        redis.launch().await;

        assert_eq!(redis.url(), url);
        assert_eq!(redis.query::<Option<String>>(&["GET", "a"]).await, None);
    }

    #[tokio::test]
    async fn a_frozen_server_answers_when_it_is_thawed() {
        let redis = RedisServer::start().await;
        let mut client = redis.client().await;
        redis.freeze();
        let ping = ::redis::cmd("PING");
        let mut asked = std::pin::pin!(ping.exec_async(&mut client));
        tokio::time::timeout(Duration::from_millis(50), &mut asked)
            .await
            .expect_err("it is frozen");

        redis.thaw();

        asked.await.expect("answered");
    }

    #[tokio::test]
    #[should_panic(expected = "Address already in use")]
    async fn a_server_whose_port_another_one_serves_fails_with_its_last_words() {
        let mut one = RedisServer::start().await;
        let mut two = RedisServer::reserve();
        std::mem::swap(&mut one.port, &mut two.port);

        two.launch().await;
    }

    #[tokio::test]
    #[should_panic(expected = "Address already in use")]
    async fn a_client_connected_to_itself_keeps_a_server_from_its_port() {
        let mut redis = RedisServer::reserve();
        let address = (Ipv4Addr::LOCALHOST, redis.port.number()).into();
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(address).expect("free");
        let client: TcpStream = socket.connect(address).await.expect("nobody listens, and yet");
        assert_eq!(client.local_addr().ok(), client.peer_addr().ok());

        redis.launch().await;
    }
}
