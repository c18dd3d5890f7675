//! `alkhub dev`: a whole hub on a laptop, with a private Postgres and in-process events, in one folder.
//!
//! Invariants
//! - One hub uses a data folder at a time; the folder's lock ensures that.
//! - Whatever ends the hub also ends the private database; the next start finds the data.
//! - A start that fails, by a mistake or by Ctrl-C, leaves behind nothing that it has created.

mod database;
mod folder;
mod keys;
mod listener;
mod settings;
pub(crate) mod state;
mod taken;

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alkhub_config::HubConfig;
use alkhub_sdk::{CallFilter, Client};
use alkhub_server::{Hub, telemetry};

use self::database::Database;
use self::folder::{ADMIN_KEY, DataFolder, HASH_KEY};
use self::taken::untaken;
use crate::args::DevArgs;
use crate::failure::{Failure, INTERRUPTED};
use crate::files;
use crate::follow::Follow;
use crate::output;
use crate::serve::{end, exposed, failed, logs, not_started, prepare};
use crate::signals::Signals;
use crate::wait::{self, Places};

/// A start in progress, in its folder.
struct Start {
    folder: DataFolder,
    /// Whether the hub has a private database.
    is_private: bool,
    /// True until the hub was ready.
    is_for_nothing: bool,
}

/// A hub that is ready.
struct Running {
    // Dropped in this order: nobody is directed to a hub that is gone, and its last messages are logged.
    _published: Option<state::Published>,
    hub: Hub,
    _telemetry: telemetry::Guard,
}

/// Runs a hub until Ctrl-C.
pub(crate) async fn dev(args: DevArgs) -> Result<ExitCode, Failure> {
    let config = settings::read(&args)?;
    let mut signals = Signals::listen()?;
    warn_of_others(config.server.listen, config.server.tls.is_some());
    check_free(config.server.listen, "--listen").await?;
    check_free(config.server.management_listen, "--management-listen").await?;
    let mut start = Start {
        folder: DataFolder::make(args.data.as_deref(), &args.folders)?,
        is_private: !database::is_external(&config),
        is_for_nothing: true,
    };
    let result = Box::pin(in_folder(&args, config, &mut start, &mut signals)).await;
    if start.is_for_nothing {
        start.folder.tidy();
    }
    result
}

async fn in_folder(
    args: &DevArgs,
    mut config: HubConfig,
    start: &mut Start,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let data = start.folder.path();
    config.auth.hash_key_file.get_or_insert_with(|| data.join(HASH_KEY));
    config.auth.admin_key_file.get_or_insert_with(|| data.join(ADMIN_KEY));
    let Some(database) = started(&mut config, start, signals).await? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let ended = tokio::select! {
        ended = serve(config, args, start, signals) => ended,
        failure = database.keep() => Err(failure),
    };
    database.stop().await?;
    ended
}

/// The database, or nothing if a signal came first: then it is ended. A second signal does not wait for that.
async fn started(
    config: &mut HubConfig,
    start: &mut Start,
    signals: &mut Signals,
) -> Result<Option<Database>, Failure> {
    let mut starting = Box::pin(Database::start(config, &mut start.folder));
    tokio::select! {
        database = &mut starting => return database.map(Some),
        () = signals.next() => {}
    }
    let ended = async {
        match starting.await {
            Ok(database) => database.stop().await,
            Err(failure) => Err(failure),
        }
    };
    tokio::select! {
        ended = ended => ended?,
        // It may still write into the folder.
        () = signals.next() => start.is_for_nothing = false,
    }
    Ok(None)
}

/// Runs the hub until a signal.
async fn serve(
    config: HubConfig,
    args: &DevArgs,
    start: &mut Start,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let running = tokio::select! {
        running = run(config, args, start) => running?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    start.is_for_nothing = false;
    tokio::select! {
        () = signals.next() => {}
        () = note_calls(&running.hub, start.folder.path(), args.quiet) => {}
        reason = running.hub.failed() => return Err(failed(&running.hub, signals, reason).await),
    }
    output::note("stopping the hub");
    Ok(end(&running.hub, signals).await)
}

/// Writes a line for each call that has ended; never resolves.
async fn note_calls(hub: &Hub, data: &Path, quiet: bool) {
    let key = std::fs::read_to_string(data.join(ADMIN_KEY)).unwrap_or_default();
    // With TLS the certificate may be anybody's, so no calls are shown then.
    let client = Client::builder(hub.url()).token(key.trim()).build();
    match client {
        Ok(client) if !quiet => Follow::new(client, CallFilter::default()).note().await,
        _ => std::future::pending().await,
    }
}

/// Warns that others can reach the hub, if it listens for them.
fn warn_of_others(listen: SocketAddr, has_tls: bool) {
    if listen.ip().is_loopback() {
        return;
    }
    let clear = if has_tls {
        ""
    } else {
        ", and keys cross it in the clear"
    };
    output::warning(&format!(
        "--listen {listen}: everybody who reaches this machine's network can try keys here{clear}; 127.0.0.1 is for this \
         machine alone"
    ));
}

async fn run(config: HubConfig, args: &DevArgs, start: &Start) -> Result<Running, Failure> {
    let limit = args.wait.0;
    let places = Places::new(
        &config,
        "start it, or leave --database-url out: then the hub brings a private one",
        "start it, or leave --redis-url out: then events stay in the hub",
    )?;
    // Here, and not in the hub's background: problems that a person can fix are reported at once, in one line and not
    // in the log.
    prepare(&config.store, limit, &places).await?;
    let telemetry = logs(&config.telemetry)?;
    files::raise_limit();
    if let Some(warning) = exposed(&config) {
        output::note(&warning);
    }
    let started = Hub::start(config).map_err(|e| not_started(&e))?;
    tokio::select! {
        ready = wait::until(started.ready(), limit, &places, || started.away()) => ready?,
        reason = started.failed() => return Err(Failure::other(reason)),
    }
    let published = state::Published::write(&args.folders, &started.url(), start.folder.path())?;
    welcome(&started, start, args.path.as_deref())?;
    Ok(Running {
        hub: started,
        _published: published,
        _telemetry: telemetry,
    })
}

fn welcome(hub: &Hub, start: &Start, path: Option<&OsStr>) -> Result<(), Failure> {
    let data = start.folder.path();
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

Ctrl-C stops the hub{database}.",
        database = if start.is_private { " and its database" } else { "" },
        url = hub.url(),
        key = data.join(ADMIN_KEY).display(),
        quoted_key = quoted(&data.join(ADMIN_KEY)),
        data = data.display(),
        management = hub.management_url(),
    );
    output::line(&text).map(drop)
}

/// The folder of this program, unless a shell would find `alkhub` there by itself.
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

/// Fails before a database is started for nothing.
async fn check_free(address: SocketAddr, flag: &str) -> Result<(), Failure> {
    let in_use = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    match untaken(|| TcpListener::bind(address), in_use).await {
        Ok(_) => Ok(()),
        Err(error) if in_use(&error) => Err(Failure::other(format!(
            "{address} is in use by another program: stop it, or give another {flag} (port 0 takes a free one)"
        ))),
        Err(error) => Err(Failure::other(format!("cannot listen on {address} ({flag}): {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_comes_free_in_a_moment_is_waited_for() {
        let busy = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = busy.local_addr().expect("bound");

        // The first attempt comes before the port is free, since `join` polls in this order.
        let (checked, ()) = tokio::join!(check_free(address, "--listen"), async { drop(busy) });

        assert!(checked.is_ok(), "{checked:?}");
    }
}
