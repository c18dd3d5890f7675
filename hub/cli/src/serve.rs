//! `alkhub serve` and `alkhub migrate`.

use std::process::ExitCode;
use std::time::Duration;

use alkhub_config::{HubConfig, StoreConfig};
use alkhub_server::{Hub, telemetry};
use alkhub_store::{LinkState, Store};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::args::ServeArgs;
use crate::failure::{Failure, INTERRUPTED, chain};
use crate::output;
use crate::signals::Signals;

/// Time for a database to answer where a person waits for it.
pub(crate) const DATABASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a hub until a signal, then drains it; a second signal ends at once. A hub that cannot go on is a failure.
pub(crate) async fn serve(args: ServeArgs) -> Result<ExitCode, Failure> {
    let config = HubConfig::load(args.config.as_deref()).map_err(|e| Failure::usage(chain(&e)))?;
    let _telemetry = telemetry::init(&config.telemetry).map_err(|e| Failure::chain(&e))?;
    let mut signals = Signals::listen()?;
    let hub = Hub::start(config).map_err(|e| Failure::chain(&e))?;
    tracing::info!(hub.id = %hub.hub_id(), url = hub.url(), "hub started");
    tokio::select! {
        () = signals.next() => Ok(end(&hub, &mut signals).await),
        reason = hub.failed() => {
            // It was never ready: there is nothing to drain.
            hub.kill().await;
            Err(Failure::other(reason))
        }
    }
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
    let _telemetry = telemetry::init(&config.telemetry).map_err(|e| Failure::chain(&e))?;
    prepare(&config.store).await?;
    output::note(&format!("schema `{}` is up to date", config.store.schema));
    Ok(ExitCode::SUCCESS)
}

/// Connects to the database and brings its schema up to date, or says why not.
pub(crate) async fn prepare(config: &StoreConfig) -> Result<(), Failure> {
    let store = Store::open(config, &prometheus::Registry::new()).map_err(|e| Failure::chain(&e))?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let prepared = timeout(DATABASE_TIMEOUT, store.prepare(&stop)).await;
    match prepared {
        Ok(result) => result.map_err(|e| Failure::chain(&e)),
        Err(_) => {
            let reason = match &*store.link().borrow() {
                LinkState::Down(reason) => format!(": {reason}"),
                LinkState::Up => String::new(),
            };
            Err(Failure::other(format!(
                "Postgres did not answer within {} s{reason}",
                DATABASE_TIMEOUT.as_secs()
            )))
        }
    }
}
