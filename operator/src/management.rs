//! The management port: `/metrics`, `/livez`, `/readyz`.
//!
//! A standby is as ready as the leader: both must be able to take over. Not ready is who cannot reach the API server
//! or whose watches are silent although the Lease is renewed.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::StartError;
use crate::args::Args;
use crate::metrics::Metrics;

/// The Lease changes every 2 s or so; a watch that shows nothing for this long is dead.
const SILENT: Duration = Duration::from_secs(90);

#[derive(Clone)]
struct Parts {
    registry: Registry,
    metrics: Arc<Metrics>,
}

/// Binds the port and serves it until `stop`.
pub(crate) async fn start(
    args: &Args,
    registry: &Registry,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let listener = tokio::net::TcpListener::bind(args.management_listen)
        .await
        .map_err(StartError::Listen)?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(management.address = %address, "serving metrics and probes");
    }
    let router = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(Parts {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
        });
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the management port failed");
        }
    });
    Ok(())
}

async fn metrics_text(State(parts): State<Parts>) -> impl IntoResponse {
    parts.metrics.refresh();
    match TextEncoder::new().encode_to_string(&parts.registry.gather()) {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string(),
        ),
    }
}

async fn ready(State(parts): State<Parts>) -> (StatusCode, String) {
    let leads = parts.metrics.leader.get() == 1;
    let role = if leads { "leader" } else { "standby" };
    let age = parts.metrics.lease_age();
    let silent = leads && age.is_some_and(|age| age > SILENT);
    let reachable = parts.metrics.api_reachable.get() == 1 || leads;
    let age = age.map_or_else(|| "never".to_owned(), |age| format!("{:.1}s ago", age.as_secs_f64()));
    let text = format!("{role}\nlast watch event of the Lease: {age}\n");
    if reachable && !silent {
        (StatusCode::OK, text)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}
