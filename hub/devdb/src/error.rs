//! Why a private server does not run.

use std::path::{Path, PathBuf};

/// Why a private server does not run, in a line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process uses the folder.
    #[error("{folder} is in use by process {}: stop it, or name another folder", show(*pid))]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process, if it is known.
        pid: Option<u32>,
    },
    /// The folder, or the lock in it, belongs to another user, who could take it at any time.
    #[error("{path} belongs to another user: name a folder of your own")]
    NotOurs {
        /// The folder or the file.
        path: PathBuf,
    },
    /// PostgreSQL is not installed.
    #[error("PostgreSQL is not installed: apt-get install postgresql (looked in /usr/lib/postgresql)")]
    BinariesMissing,
    /// The data is of a version of PostgreSQL that is not installed.
    #[error(
        "{folder} holds data of PostgreSQL {version}, which is not installed: apt-get install postgresql-{version}"
    )]
    Version {
        /// The folder.
        folder: PathBuf,
        /// The version that made the data.
        version: String,
    },
    /// We run as root, and there is nobody else to run as.
    #[error("Postgres does not run as root, and this system has neither a user `postgres` nor `nobody`")]
    NoAccount,
    /// The user that Postgres runs as cannot enter the folder.
    #[error("user `{user}`, as whom Postgres runs, cannot enter {blocked}: chmod o+x it, or name a folder elsewhere")]
    Unreachable {
        /// The user.
        user: String,
        /// The first folder on the way that is closed to it.
        blocked: PathBuf,
    },
    /// A server that is not ours runs in the folder.
    #[error("process {pid} runs in {folder} and was not started by alkhub: stop it")]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The process.
        pid: u32,
    },
    /// The folder for the socket belongs to somebody else.
    #[error("{path}, where the socket goes, belongs to somebody else: remove it")]
    SocketFolder {
        /// The folder.
        path: PathBuf,
    },
    /// `initdb` failed.
    #[error("initdb failed: {output}")]
    Init {
        /// The last line that it wrote.
        output: String,
    },
    /// The server ended while it started.
    #[error("Postgres did not start: {line} (more in {log})")]
    Exited {
        /// The line of the log with the reason.
        line: String,
        /// The log.
        log: PathBuf,
    },
    /// The server does not take connections.
    #[error("Postgres is not ready after {seconds} s: {line} (more in {log})")]
    NotReady {
        /// How long it was waited for.
        seconds: u64,
        /// The last line of the log.
        line: String,
        /// The log.
        log: PathBuf,
    },
    /// The server does not end.
    #[error("process {pid} of Postgres does not end")]
    Stuck {
        /// The process.
        pid: u32,
    },
    /// A file or a process could not be worked with.
    #[error("cannot {what} {path}")]
    Io {
        /// A verb.
        what: &'static str,
        /// The file or program.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The name cannot be that of a database.
    #[error("`{0}` is no name for a database: use 1 to 63 lower-case letters, digits and `_`")]
    DatabaseName(String),
    /// A statement failed.
    #[error("the private Postgres refused a statement")]
    Database(#[source] sqlx::Error),
    /// The runtime ended first.
    #[error("the runtime ended while Postgres was started or stopped")]
    Cancelled,
}

// === impl Error ===

impl Error {
    /// For `map_err`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

fn show(pid: Option<u32>) -> String {
    pid.map_or_else(|| "of another user".to_owned(), |pid| pid.to_string())
}
