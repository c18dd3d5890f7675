//! How a private server runs.

use std::path::PathBuf;
use std::time::Duration;

/// How a private server runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds everything: `data`, `run` (the socket), `postgres.log`, `lock`. Made when missing.
    pub folder: PathBuf,
    /// Whether what was committed survives a loss of power. Only tests can do without.
    pub durable: bool,
    /// A port on 127.0.0.1 to listen on besides the socket, where a password is asked for; none by default.
    pub tcp_port: Option<u16>,
    /// Connections at most.
    pub max_connections: u16,
    /// Longest wait for a new or recovering server.
    pub start_timeout: Duration,
}

// === impl Options ===

impl Options {
    /// A durable server in a folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            durable: true,
            tcp_port: None,
            max_connections: 100,
            start_timeout: Duration::from_secs(60),
        }
    }
}
