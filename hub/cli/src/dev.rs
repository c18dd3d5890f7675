//! `alkhub dev`: a whole hub on a laptop, with a private Postgres and events in process, in one folder.
//!
//! Invariants
//! - One hub uses a data folder at a time; the folder's lock says so.
//! - Whatever ends the hub ends the private database too; the next start finds the data.

pub(crate) mod state;

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_protocol::ApiKey;
use alkhub_server::{Hub, telemetry};
use alkhub_store::private::{FolderLock, Options, Server};
use tokio::time::timeout;

use crate::args::{DevArgs, HubArgs};
use crate::failure::{Failure, INTERRUPTED, chain};
use crate::output;
use crate::serve::{end, prepare};
use crate::signals::Signals;

/// The file of the first key, in the data folder.
const ADMIN_KEY: &str = "admin.key";

/// The file of the secret that keys are hashed with.
const HASH_KEY: &str = "hash.key";

/// Time for the hub to become ready once its database is there.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for running calls to finish at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the data of root goes: Postgres runs as another user and cannot enter root's home.
const DATA_OF_ROOT: &str = "/var/lib/alkhub/dev";

/// What keeps the data: both hold the folder's lock.
enum Database {
    Private(Box<Server>),
    Given(#[expect(dead_code, reason = "held, not read")] FolderLock),
}

/// A hub that is ready.
struct Running {
    hub: Hub,
    published: Option<state::Published>,
    telemetry: telemetry::Guard,
}

/// Runs a hub until Ctrl-C.
pub(crate) async fn dev(args: DevArgs, hub: &HubArgs) -> Result<ExitCode, Failure> {
    let data = folder(&args, hub)?;
    let mut config = config(&args, &data)?;
    let mut signals = Signals::listen()?;
    for address in [config.server.listen, config.server.management_listen] {
        check_free(address)?;
    }
    let database = tokio::select! {
        database = Database::start(&mut config, &data) => database?,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let result = tokio::select! {
        result = run(config, &data, hub, args.path.as_deref()) => result.map(Some),
        () = signals.next() => Ok(None),
    };
    let ended = match result {
        Ok(Some(Running {
            hub,
            published,
            telemetry,
        })) => {
            signals.next().await;
            output::note("stopping the hub");
            let code = end(&hub, &mut signals).await;
            drop((published, hub, telemetry));
            Ok(code)
        }
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(failure) => Err(failure),
    };
    database.stop().await?;
    ended
}

async fn run(config: HubConfig, data: &Path, args: &HubArgs, path: Option<&OsStr>) -> Result<Running, Failure> {
    // Here, and not in the hub's background: what a person can mend is said at once, in one line and not in the log.
    prepare(&config.store).await?;
    let telemetry = telemetry::init(&config.telemetry).map_err(|e| Failure::chain(&e))?;
    let hub = Hub::start(config).map_err(|e| Failure::chain(&e))?;
    let ready = tokio::select! {
        ready = timeout(READY_TIMEOUT, hub.ready()) => ready,
        reason = hub.failed() => return Err(Failure::other(reason)),
    };
    if ready.is_err() {
        let seconds = READY_TIMEOUT.as_secs();
        return Err(Failure::other(format!(
            "the hub is not ready after {seconds} s: `--log info` tells more"
        )));
    }
    let published = state::Published::write(args, &hub.url(), data)?;
    welcome(&hub, data, path)?;
    Ok(Running {
        hub,
        published,
        telemetry,
    })
}

fn welcome(hub: &Hub, data: &Path, path: Option<&OsStr>) -> Result<(), Failure> {
    let find = missing_from(path).map_or_else(String::new, |folder| {
        format!("  export PATH={}:$PATH\n", quoted(&folder))
    });
    let text = format!(
        "alkhub is ready at {url}

  admin key   {key}
  data        {data}
  metrics     {management}/metrics

Try next, in another terminal:

{find}  alkhub offer text.upper -- tr a-z A-Z &
  alkhub operations
  alkhub call text.upper '\"hello\"'

For curl and other programs:

  export ALKHUB_URL={url} ALKHUB_TOKEN=$(cat {quoted_key})

Ctrl-C stops the hub and its database.",
        url = hub.url(),
        key = data.join(ADMIN_KEY).display(),
        quoted_key = quoted(&data.join(ADMIN_KEY)),
        data = data.display(),
        management = hub.management_url(),
    );
    output::line(&text).map(drop)
}

/// The folder of this program, unless a shell finds `alkhub` there by itself.
fn missing_from(path: Option<&OsStr>) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.canonicalize().ok()?;
    let found = path
        .into_iter()
        .flat_map(std::env::split_paths)
        .map(|folder| folder.join("alkhub"))
        .find(|file| file.is_file())
        .and_then(|file| file.canonicalize().ok());
    let folder = program.parent()?.to_owned();
    (found != Some(program)).then_some(folder)
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The data folder, made when it is missing.
fn folder(args: &DevArgs, hub: &HubArgs) -> Result<PathBuf, Failure> {
    let folder = match &args.data {
        Some(folder) => folder.clone(),
        None if nix::unistd::geteuid().is_root() => DATA_OF_ROOT.into(),
        None => {
            let home = hub.data_home.clone().filter(|path| path.is_absolute());
            let home = home.or_else(|| hub.home.as_ref().map(|home| home.join(".local/share")));
            home.ok_or_else(|| Failure::usage("no home folder is known: name a folder with --data"))?
                .join("alkhub/dev")
        }
    };
    let failed = |e: std::io::Error| Failure::other(format!("cannot use the data folder {}: {e}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    folder.canonicalize().map_err(failed)
}

/// The environment's settings under those of the command line.
fn config(args: &DevArgs, data: &Path) -> Result<HubConfig, Failure> {
    let mut config = HubConfig::load(None).map_err(|e| Failure::usage(chain(&e)))?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
        config.server.management_listen = ([127, 0, 0, 1], 0).into();
    }
    if let Some(listen) = args.management_listen {
        config.server.management_listen = listen;
    }
    config.server.drain_timeout = DRAIN_TIMEOUT;
    if let Some(url) = &args.database_url {
        config.store.database_url = Some(url.clone().into());
    }
    if let Some(url) = &args.redis_url {
        config.events.redis_url = Some(url.clone().into());
    }
    config.auth.hash_key_file.get_or_insert_with(|| data.join(HASH_KEY));
    config.auth.admin_key_file.get_or_insert_with(|| data.join(ADMIN_KEY));
    config.telemetry.log_filter.clone_from(&args.log);
    Ok(config)
}

/// Fails before a database is started for nothing.
fn check_free(address: SocketAddr) -> Result<(), Failure> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Failure::other(format!(
            "{address} is in use by another program: stop it, or give another --listen (port 0 takes a free one)"
        ))),
        Err(error) => Err(Failure::other(format!("cannot listen on {address}: {error}"))),
    }
}

/// Makes the keys of a new folder; those that are there stay.
fn make_keys(data: &Path) -> Result<(), Failure> {
    let secret: [u8; 32] = rand::random();
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    for (name, text) in [
        (HASH_KEY, secret),
        (ADMIN_KEY, ApiKey::from_entropy(rand::random()).expose().to_owned()),
    ] {
        let path = data.join(name);
        if !path.exists() {
            state::write_private(&path, &format!("{text}\n"))
                .map_err(|e| Failure::other(format!("cannot write {}: {e}", path.display())))?;
        }
    }
    Ok(())
}

// === impl Database ===

impl Database {
    /// The private server, unless a database is named; either way the folder is locked from here on.
    async fn start(config: &mut HubConfig, data: &Path) -> Result<Self, Failure> {
        let given = config.store.database_url.is_some() || config.store.database_url_file.is_some();
        let database = if given {
            Self::Given(FolderLock::take(data).map_err(|e| Failure::chain(&e))?)
        } else {
            let server = Server::start(Options::new(data))
                .await
                .map_err(|e| Failure::chain(&e))?;
            config.store.database_url = Some(server.url().into());
            Self::Private(Box::new(server))
        };
        make_keys(data)?;
        Ok(database)
    }

    async fn stop(self) -> Result<(), Failure> {
        match self {
            Self::Private(server) => server.stop().await.map_err(|e| Failure::chain(&e)),
            Self::Given(_) => Ok(()),
        }
    }
}
