//! The database of a development hub: a private one, which is restarted when it dies, or one that the user names.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_devdb::{Error, FolderLock, Options, Server};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::folder::DataFolder;
use super::keys;
use super::taken::untaken;
use crate::failure::{Failure, chain};
use crate::output;

/// How often the private server is checked.
const LOOK: Duration = Duration::from_millis(250);

/// How many restarts there are after a death, each after a longer wait.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// A server that lived this long did not die of its start.
const HEALTHY: Duration = Duration::from_secs(60);

/// What keeps the data: both hold the folder's lock.
pub(super) enum Database {
    Private(Box<Server>),
    External(#[expect(dead_code, reason = "held, not read")] FolderLock),
}

// === impl Database ===

impl Database {
    /// The private server, unless the user names a database; either way the folder is locked from here on.
    pub(super) async fn start(config: &mut HubConfig, folder: &mut DataFolder) -> Result<Self, Failure> {
        let data = folder.path().to_owned();
        let lock = untaken(
            || FolderLock::take(&data),
            |error| matches!(error, Error::Locked { .. }),
        );
        let lock = lock.await.map_err(|e| Failure::chain(&e))?;
        let missing = folder.missing();
        let database = if is_external(config) {
            folder.fills(missing);
            Self::External(lock)
        } else {
            // The server takes the lock again, for itself.
            drop(lock);
            let server = Server::start(Options::new(&data)).await;
            if !matches!(server, Err(Error::Locked { .. })) {
                folder.fills(missing);
            }
            let server = server.map_err(|e| Failure::chain(&e))?;
            config.store.database_url = Some(server.url().into());
            Self::Private(Box::new(server))
        };
        keys::make(&data)?;
        Ok(database)
    }

    /// Restarts a private server whenever it dies, and reports it; resolves when that does not help.
    pub(super) async fn keep(&self) -> Failure {
        let Self::Private(server) = self else {
            return std::future::pending().await;
        };
        let mut attempts = 0;
        loop {
            let began = Instant::now();
            let death = death(server).await;
            attempts = if began.elapsed() > HEALTHY { 0 } else { attempts };
            if attempts >= ATTEMPTS {
                return Failure::other(format!(
                    "the private Postgres dies again and again ({death}): see postgres.log"
                ));
            }
            output::note(&format!("the private Postgres died ({death}): starting it again"));
            while let Err(error) = start_again(server, attempts).await {
                attempts += 1;
                if attempts >= ATTEMPTS {
                    let why = chain(&error);
                    return Failure::other(format!("the private Postgres died ({death}) and does not start: {why}"));
                }
            }
            attempts += 1;
            output::note("the private Postgres runs again");
        }
    }

    pub(super) async fn stop(self) -> Result<(), Failure> {
        match self {
            Self::Private(server) => server.stop().await.map_err(|e| Failure::chain(&e)),
            Self::External(_) => Ok(()),
        }
    }
}

/// Whether the user names a database.
pub(super) fn is_external(config: &HubConfig) -> bool {
    config.store.database_url.is_some() || config.store.database_url_file.is_some()
}

/// What the server died of. Its process is only looked at; [`Server::stop`] waits for it.
async fn death(server: &Server) -> String {
    loop {
        sleep(LOOK).await;
        let Some(pid) = server.pid().await else { continue };
        let pid = Id::Pid(Pid::from_raw(i32::try_from(pid).expect("the kernel's process ids fit")));
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(pid, look) {
            Ok(WaitStatus::Exited(_, code)) => return format!("exit code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => return signal.to_string(),
            Ok(_) | Err(_) => {}
        }
    }
}

async fn start_again(server: &Server, attempts: u32) -> Result<(), Error> {
    sleep(FIRST_WAIT * 2_u32.pow(attempts)).await;
    server.stop().await?;
    server.start_again().await
}
