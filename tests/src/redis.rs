//! A private Redis server for one test, from Debian's binary.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

use crate::wait;

/// A Redis server on a port of loopback that ends with this value.
#[derive(Debug)]
pub struct RedisServer {
    process: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
}

// === impl RedisServer ===

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    ///
    /// # Errors
    /// `redis-server` is not installed (Debian: `redis-server`), or no port is free.
    pub async fn start() -> Result<Self> {
        let port = free_port()?;
        let folder = tempfile::tempdir()?;
        let mut server = Self {
            process: None,
            port,
            folder,
        };
        server.launch().await?;
        Ok(server)
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server without a word.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Starts it again on the same port, with nothing in it.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub async fn launch(&mut self) -> Result<()> {
        let process = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--dir", &self.folder.path().to_string_lossy()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start redis-server: install Debian's package redis-server")?;
        self.process = Some(process);
        let url = self.url();
        wait::until("Redis answers", Duration::from_secs(10), || ping(&url)).await;
        Ok(())
    }

    /// CPU time that the server has used, of user and system.
    ///
    /// # Errors
    /// The server does not run.
    pub fn cpu(&self) -> Result<Duration> {
        let pid = self.process.as_ref().and_then(Child::id).context("the server runs")?;
        crate::process::cpu(pid)
    }

    /// A connection of the test's own.
    ///
    /// # Errors
    /// The server is away.
    pub async fn client(&self) -> Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.url())?
            .get_multiplexed_async_connection()
            .await?)
    }
}

async fn ping(url: &str) -> Result<(), String> {
    let client = redis::Client::open(url).map_err(|e| e.to_string())?;
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .map_err(|e| e.to_string())?;
    redis::cmd("PING")
        .query_async::<()>(&mut connection)
        .await
        .map_err(|e| e.to_string())
}

/// A port of loopback that nobody listens on now.
///
/// # Errors
/// None is free.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
