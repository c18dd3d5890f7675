//! Options of a private server.

use std::path::PathBuf;
use std::time::Duration;

/// Options of a private server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds everything: `data`, `run` (the socket), `postgres.log`, `lock`. Created if missing.
    pub folder: PathBuf,
    /// Whether committed data survive a loss of power. Only tests can do without that.
    pub durable: bool,
    /// A port on 127.0.0.1 to listen on besides the socket, with a password; none by default.
    pub tcp_port: Option<u16>,
    /// The most connections.
    pub max_connections: u16,
    /// How long to wait for a new or recovering server.
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
