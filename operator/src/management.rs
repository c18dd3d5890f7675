//! The management port: `/metrics`, `/livez`, `/readyz`.
//!
//! A standby is as ready as the leader: both must be able to take over. A process is not ready if it cannot reach the
//! API server, if its watches are silent although the Lease is renewed, if it leads without knowing what there is, or
//! if it has lost a part of itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alkhub_tasks::Supervisor;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};

use crate::health::{Health, LEASE};
use crate::metrics::Metrics;
use crate::start::StartError;

/// The Lease changes every 2 s or so; a watch that shows nothing for this long is dead.
const SILENT: Duration = Duration::from_secs(90);

/// A leader lists what there is within seconds; one that takes longer than this reconciles nothing.
const BLIND: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Parts {
    registry: Registry,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

/// Binds the port and serves it until the process ends; a port that is no longer served counts as lost.
pub(crate) async fn start(
    listen: SocketAddr,
    registry: &Registry,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    supervisor: &Supervisor,
) -> Result<(), StartError> {
    let listener = tokio::net::TcpListener::bind(listen)
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
            health: Arc::clone(health),
        });
    let stopped = supervisor.stop().clone().cancelled_owned();
    supervisor.keep("operator.management", async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the management port failed");
        }
    });
    Ok(())
}

async fn metrics_text(State(parts): State<Parts>) -> impl IntoResponse {
    parts.metrics.refresh(&parts.health);
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
    readiness(&parts.health)
}

fn readiness(health: &Health) -> (StatusCode, String) {
    let leads = health.leads();
    let role = if leads { "leader" } else { "standby" };
    let age = health.age(LEASE);
    let silent = leads && age.is_some_and(|age| age > SILENT);
    let reachable = health.is_reachable() || leads;
    let is_blind = leads && health.blind().is_some_and(|since| since > BLIND);
    let age = age.map_or_else(|| "never".to_owned(), |age| format!("{:.1}s ago", age.as_secs_f64()));
    let mut text = format!("{role}\nlast watch event of the Lease: {age}\n");
    if is_blind {
        text.push_str("what there is could not be listed: nothing is reconciled\n");
    }
    if health.has_lost() {
        text.push_str("a part of the operator is lost: it ends\n");
    }
    if reachable && !silent && !is_blind && !health.has_lost() {
        (StatusCode::OK, text)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Stores, UnreadableObjects, Watches};

    fn leader() -> Health {
        let health = Health::default();
        health.set_leads(true);
        health
    }

    fn unfilled() -> Stores {
        let nobody = |_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        };
        let watches = Watches {
            client: kube::Client::new(tower::service_fn(nobody), "team"),
            namespace: None,
            metrics: Arc::new(Metrics::new(&Registry::new()).expect("registered")),
            health: Arc::default(),
            unreadable: Arc::new(UnreadableObjects::default()),
        };
        crate::leading::stores(&watches)
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_list_what_there_is_is_unready_after_a_minute() {
        let health = leader();
        health.observe(Some(Arc::new(unfilled())));

        assert_eq!(readiness(&health).0, StatusCode::OK, "it has just begun");
        tokio::time::advance(BLIND + Duration::from_secs(1)).await;
        let (status, text) = readiness(&health);

        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.starts_with("leader") && text.contains("listed"), "{text}");
        health.observe(None);
        assert_eq!(readiness(&health).0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_process_that_has_lost_a_part_is_unready_for_good() {
        let health = leader();
        health.lose();

        assert_eq!(readiness(&health).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
