//! `alkhub serve` and `alkhub migrate`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use alkhub_config::{HubConfig, StoreConfig, TelemetryConfig};
use alkhub_server::{Hub, StartError, telemetry};
use alkhub_store::{LinkState, Store};
use tokio_util::sync::CancellationToken;

use crate::args::ServeArgs;
use crate::failure::{Failure, INTERRUPTED, chain};
use crate::output;
use crate::signals::Signals;
use crate::wait::{self, Places};

/// How long a database may take to answer while a person waits for it.
pub(crate) const DATABASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where Kubernetes looks for a container's last message.
const LAST_WORDS: &str = "/dev/termination-log";

/// Runs a hub until a signal, then drains it; a second signal ends it at once. A hub that cannot go on is a failure.
pub(crate) async fn serve(args: ServeArgs) -> Result<ExitCode, Failure> {
    let ended = Box::pin(run(args)).await;
    ended.map_err(|failure| failure.leave_word(Path::new(LAST_WORDS)))
}

async fn run(args: ServeArgs) -> Result<ExitCode, Failure> {
    let config = HubConfig::load(args.config.as_deref()).map_err(|e| Failure::usage(chain(&e)))?;
    let _telemetry = logs(&config.telemetry)?;
    let mut signals = Signals::listen()?;
    crate::files::raise_limit();
    if config.pod.name.is_empty()
        && let Some(warning) = exposed(&config)
    {
        tracing::warn!("{warning}");
    }
    let hub = Hub::start(config).map_err(|e| not_started(&e))?;
    tracing::info!(hub.id = %hub.hub_id(), url = hub.url(), "hub started");
    tokio::select! {
        () = signals.next() => Ok(end(&hub, &mut signals).await),
        reason = hub.failed() => Err(failed(&hub, &mut signals, reason).await),
    }
}

/// Why a hub does not start: a setting that is missing or wrong, or something else.
pub(crate) fn not_started(error: &StartError) -> Failure {
    match error {
        StartError::Settings(_)
        | StartError::HashKeyMissing
        | StartError::Secret(_)
        | StartError::HashKey(_)
        | StartError::AdminKey(_)
        | StartError::Tls(_)
        | StartError::Store(_)
        | StartError::Redis(_) => Failure::usage(chain(error)),
        StartError::Bind { .. } | StartError::Metrics(_) => Failure::chain(error),
    }
}

/// Logs and traces as the settings say.
pub(crate) fn logs(config: &TelemetryConfig) -> Result<telemetry::Guard, Failure> {
    telemetry::init(config).map_err(|error| match error {
        telemetry::Error::Filter(_) | telemetry::Error::Exporter(_) => Failure::usage(chain(&error)),
        telemetry::Error::AlreadySet(_) | telemetry::Error::Runtime(_) => Failure::chain(&error),
    })
}

/// A warning if other machines can reach the hub and keys would cross the network unencrypted. In a pod, an Ingress
/// handles TLS.
pub(crate) fn exposed(config: &HubConfig) -> Option<String> {
    let listen = config.server.listen;
    (config.server.tls.is_none() && !listen.ip().is_loopback()).then(|| {
        format!(
            "warning: other machines reach {listen}, and keys cross the network in the clear: set `server.tls` \
             (ALKHUB_SERVER__TLS__CERT_FILE and …KEY_FILE), put a proxy with TLS in front, or listen on 127.0.0.1"
        )
    })
}

/// Ends a hub that cannot go on. Connected peers are drained as at any other end; a hub without any ends at once.
pub(crate) async fn failed(hub: &Hub, signals: &mut Signals, reason: String) -> Failure {
    if hub.websockets() == 0 && hub.calls().in_flight() == 0 {
        hub.kill().await;
    } else {
        end(hub, signals).await;
    }
    Failure::other(reason)
}

/// Drains a hub; a second signal does not wait.
pub(crate) async fn end(hub: &Hub, signals: &mut Signals) -> ExitCode {
    tokio::select! {
        () = hub.shutdown() => ExitCode::SUCCESS,
        () = signals.next() => {
            output::note("alkhub: not waiting for running calls");
            ExitCode::from(INTERRUPTED)
        }
    }
}

/// Migrates and ends.
pub(crate) async fn migrate(args: ServeArgs) -> Result<ExitCode, Failure> {
    let config = HubConfig::load(args.config.as_deref()).map_err(|e| Failure::usage(chain(&e)))?;
    let _telemetry = logs(&config.telemetry)?;
    let cure = "start it, or set another `store.database-url`";
    let places = Places::new(&config, cure, "")?;
    prepare(&config.store, DATABASE_TIMEOUT, &places).await?;
    output::note(&format!("schema `{}` is up to date", config.store.schema));
    Ok(ExitCode::SUCCESS)
}

/// Connects to the database and brings its schema up to date, or says why not.
pub(crate) async fn prepare(config: &StoreConfig, limit: Duration, places: &Places) -> Result<(), Failure> {
    let store = Store::open(config, &prometheus::Registry::new()).map_err(|e| Failure::chain(&e))?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    ready(&store, &stop, limit, places).await
}

/// Waits until a store can be used.
pub(crate) async fn ready(
    store: &Store,
    stop: &CancellationToken,
    limit: Duration,
    places: &Places,
) -> Result<(), Failure> {
    let link = store.link();
    let away = || match &*link.borrow() {
        LinkState::Down(reason) => vec![("Postgres", reason.clone())],
        LinkState::Up => Vec::new(),
    };
    let prepared = wait::until(store.prepare(stop), limit, places, away).await?;
    prepared.map_err(|e| Failure::chain(&e))
}
