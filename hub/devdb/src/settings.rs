//! Where the parts of a private server are, and how they are created the first time.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use sha2::{Digest as _, Sha256};

use crate::account::Account;
use crate::binaries;
use crate::error::Error;
use crate::options::Options;

/// The user of the database, not of the system.
pub(crate) const ROLE: &str = "alkhub";

/// The characters of the socket's path that are escaped in a URL.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-');

/// A path of a socket must be shorter than 108 bytes; this leaves room.
const SOCKET_PATH_LIMIT: usize = 100;
const SOCKET_NAME: &str = ".s.PGSQL.65535";

/// The port in the socket's name if there is no TCP.
const DEFAULT_PORT: u16 = 5432;

/// Everything that a start needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) binaries: PathBuf,
    pub(crate) account: Account,
    pub(crate) data: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) durable: bool,
    pub(crate) port: u16,
    pub(crate) tcp: bool,
    pub(crate) max_connections: u16,
    pub(crate) start_timeout: Duration,
}

// === impl Settings ===

impl Settings {
    /// The settings of a folder that exists.
    pub(crate) fn of(options: &Options) -> Result<Self, Error> {
        let folder = &options.folder;
        let folder = folder.canonicalize().map_err(Error::io("find", folder))?;
        let data = folder.join("data");
        let account = Account::choose(&data)?;
        account.admit(&folder)?;
        account.reaches(&folder)?;
        Ok(Self {
            binaries: binaries::find(&data)?,
            account,
            data,
            socket: socket_folder(&folder),
            log: folder.join("postgres.log"),
            durable: options.durable,
            port: options.tcp_port.unwrap_or(DEFAULT_PORT),
            tcp: options.tcp_port.is_some(),
            max_connections: options.max_connections,
            start_timeout: options.start_timeout,
        })
    }

    /// The URL of a database, over the socket.
    pub(crate) fn url(&self, database: &str) -> String {
        let host = percent_encode(self.socket.as_os_str().as_bytes(), ESCAPED);
        format!("postgres://{ROLE}@localhost:{}/{database}?host={host}", self.port)
    }

    /// Creates the folder of the socket, and the data if there are none.
    pub(crate) fn make(&self) -> Result<(), Error> {
        self.make_socket_folder()?;
        if self.data.join("PG_VERSION").exists() {
            return Ok(());
        }
        // Under another name first, so that a data folder is either complete or absent.
        let new = self.data.with_extension("new");
        if new.exists() {
            std::fs::remove_dir_all(&new).map_err(Error::io("remove", &new))?;
        }
        private_folder(&new)?;
        self.account.give(&new)?;
        self.initdb(&new)?;
        std::fs::rename(&new, &self.data).map_err(Error::io("rename", &new))
    }

    fn make_socket_folder(&self) -> Result<(), Error> {
        match std::fs::symlink_metadata(&self.socket) {
            Ok(there) if there.is_dir() && there.uid() == self.account.uid() => Ok(()),
            Ok(_) => Err(Error::SocketFolder {
                path: self.socket.clone(),
            }),
            Err(_) => {
                private_folder(&self.socket)?;
                self.account.give(&self.socket)
            }
        }
    }

    fn initdb(&self, data: &Path) -> Result<(), Error> {
        let program = self.binaries.join("initdb");
        let mut command = self.command("initdb");
        command
            .args([
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--no-instructions",
            ])
            .args(["--username", ROLE, "--pgdata"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = command.output().map_err(Error::io("run", &program))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text
            .lines()
            .find(|line| line.contains("error"))
            .or_else(|| text.lines().last());
        Err(Error::Init {
            output: line.unwrap_or("it wrote nothing").to_owned(),
        })
    }

    /// A PostgreSQL command, run as the account. Nothing of our environment reaches it: `PGDATA`, `PGPORT` and the like
    /// would influence it.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null());
        self.account.apply(&mut command);
        command
    }
}

fn private_folder(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(Error::io("make", path))
}

/// Inside the folder if its path is short enough, else a folder in `/tmp` that is named after it.
fn socket_folder(folder: &Path) -> PathBuf {
    let inside = folder.join("run");
    if inside.join(SOCKET_NAME).as_os_str().len() < SOCKET_PATH_LIMIT {
        return inside;
    }
    let hash = Sha256::digest(folder.as_os_str().as_bytes());
    Path::new("/tmp").join(format!("alkhub-pg-{}", hex::encode(&hash[..8])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_path_is_short_wherever_the_folder_is() {
        let long = PathBuf::from("/srv").join("x".repeat(120));

        assert_eq!(socket_folder(Path::new("/srv/hub")), Path::new("/srv/hub/run"));
        let socket = socket_folder(&long);
        assert!(
            socket.join(SOCKET_NAME).as_os_str().len() < SOCKET_PATH_LIMIT,
            "{socket:?}"
        );
        assert_eq!(socket, socket_folder(&long));
        assert_ne!(socket, socket_folder(&long.join("y")));
    }
}
