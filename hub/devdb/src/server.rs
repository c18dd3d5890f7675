//! The server as its users see it: started, stopped, started again, with databases.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::sync::Mutex;

use crate::error::Error;
use crate::lock::FolderLock;
use crate::options::Options;
use crate::orphan;
use crate::postmaster::{Postmaster, Watchdog};
use crate::settings::Settings;

/// The time limit for a statement of this module.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// A running private server.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    // Fields are dropped in this order: the server ends, then the folder is removed, then the lock is released.
    postmaster: Mutex<Option<Postmaster>>,
    _watchdog: Option<Watchdog>,
    _lock: FolderLock,
}

// === impl Server ===

impl Server {
    /// Starts the server of a folder, creating the folder and ending an orphan if necessary; the server takes
    /// connections when this returns. If the future is dropped, the start still completes, and then the server is
    /// ended.
    ///
    /// # Errors
    /// [`Error`], each a line that says what to do.
    pub async fn start(options: Options) -> Result<Self, Error> {
        blocking(move || Self::start_now(&options, false)).await
    }

    /// A server for tests: in a folder of its own that is removed with it, fast, and not durable.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn temporary() -> Result<Self, Error> {
        let name = format!("alkhub-pg-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        // Not the environment's folder: that may be one which another user cannot reach, or whose name is long.
        let folder = Path::new("/tmp").join(name);
        let options = Options {
            durable: false,
            max_connections: 400,
            ..Options::new(folder)
        };
        blocking(move || Self::start_now(&options, true)).await
    }

    /// The URL of the server's own database.
    pub fn url(&self) -> String {
        self.settings.url("postgres")
    }

    /// The URL of a database.
    pub fn url_of(&self, database: &str) -> String {
        self.settings.url(database)
    }

    /// Creates a database, unless it exists, and returns its URL.
    ///
    /// # Errors
    /// [`Error::Database`]; [`Error::DatabaseName`] for a name that is not of `a` to `z`, `0` to `9` and `_`.
    pub async fn create_database(&self, name: &str) -> Result<String, Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            return Err(Error::DatabaseName(name.to_owned()));
        }
        let create = format!("CREATE DATABASE \"{name}\" TEMPLATE template0");
        match tokio::time::timeout(STATEMENT_LIMIT, self.execute(create)).await {
            Ok(Ok(())) => Ok(self.url_of(name)),
            Ok(Err(error)) if is_duplicate(&error) => Ok(self.url_of(name)),
            Ok(Err(error)) => Err(Error::Database(error)),
            Err(_) => Err(Error::Database(sqlx::Error::PoolTimedOut)),
        }
    }

    /// The process of the server, while it runs.
    pub async fn pid(&self) -> Option<u32> {
        self.postmaster.lock().await.as_ref().map(Postmaster::pid)
    }

    /// Ends the server, breaking its connections; committed data stay. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`Error::Stuck`] if not even a kill ended it.
    pub async fn stop(&self) -> Result<(), Error> {
        let Some(postmaster) = self.postmaster.lock().await.take() else {
            return Ok(());
        };
        blocking(move || postmaster.stop()).await
    }

    /// Starts a server that was stopped, on the same folder and with the same URLs.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_again(&self) -> Result<(), Error> {
        let mut postmaster = self.postmaster.lock().await;
        if postmaster.is_none() {
            let settings = self.settings.clone();
            *postmaster = Some(blocking(move || Postmaster::start(&settings)).await?);
        }
        Ok(())
    }

    fn start_now(options: &Options, temporary: bool) -> Result<Self, Error> {
        let lock = FolderLock::take(&options.folder)?;
        // From here on, a temporary folder is removed whatever happens.
        let watchdog = temporary.then(|| Watchdog::start(&options.folder)).transpose()?;
        let settings = Settings::of(options)?;
        orphan::end(&settings.data, &settings.socket)?;
        settings.make()?;
        let postmaster = Postmaster::start(&settings)?;
        Ok(Self {
            settings,
            postmaster: Mutex::new(Some(postmaster)),
            _watchdog: watchdog,
            _lock: lock,
        })
    }

    async fn execute(&self, sql: String) -> sqlx::Result<()> {
        let options: PgConnectOptions = self.url().parse()?;
        let mut connection = options.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await
    }
}

fn is_duplicate(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some("42P04"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled),
        },
    }
}
