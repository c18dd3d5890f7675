//! The report that the operator copies into a Hub's status, and its orders to the pods.

use std::collections::BTreeSet;
use std::time::Duration;

use alkhub_calls::Connected;
use alkhub_edge::KeyHolder;
use alkhub_edge::VERSION;
use alkhub_edge::body::JsonBody;
use alkhub_edge::envelope::Data;
use alkhub_edge::error::ApiError;
use alkhub_edge::request::Path;
use alkhub_hub_cluster::{DrainMark, Error as ClusterError};
use alkhub_protocol::admin::{
    BalanceReport, DrainPut, HubReport, InstanceState, PartState, PodReport, REBALANCE_SECONDS,
};
use alkhub_protocol::{CallError, Chain, Code, HubId};
use axum::extract::State;
use http::StatusCode;

use crate::api::Api;

/// `GET /v1/admin/hub`.
pub(crate) async fn report(State(api): State<Api>) -> Result<Data<HubReport>, ApiError> {
    let connected = api.calls().connected();
    let spokes: BTreeSet<_> = connected.iter().map(Connected::spoke).collect();
    let is_there = |instance: &&Connected| instance.state() == InstanceState::Connected;
    let there: BTreeSet<_> = connected.iter().filter(is_there).map(Connected::spoke).collect();
    let redis = match api.cluster().link() {
        None => PartState::None,
        Some(link) if link.borrow().is_up() => PartState::Up,
        Some(_) => PartState::Down,
    };
    let pods = api.cluster().report();
    Ok(Data::ok(HubReport {
        balance: BalanceReport::of(&pods),
        hub_id: api.edge().hub_id().clone(),
        version: VERSION.to_owned(),
        channel_prefix: api.parts().channel_prefix.clone(),
        pods,
        spokes_connected: u64::try_from(there.len()).unwrap_or(u64::MAX),
        spokes_reconnecting: u64::try_from(spokes.len() - there.len()).unwrap_or(u64::MAX),
        redis,
        dead_keys: api
            .store()
            .keys()
            .count_dead(api.edge().keys().hasher().hash_key())
            .await
            .ok(),
        postgres: if api.store().ready() {
            PartState::Up
        } else {
            PartState::Down
        },
    }))
}

/// `PUT /v1/admin/hubs/{hubId}/drain`: that hub gives its connections away, for as long as this is repeated.
pub(crate) async fn drain(
    State(api): State<Api>,
    caller: KeyHolder,
    Path(hub): Path<String>,
    JsonBody(drain): JsonBody<DrainPut>,
) -> Result<Data<PodReport>, ApiError> {
    drain.check().map_err(|e| ApiError::bad_request(e.to_string()))?;
    let pod = pod(&api, &hub)?;
    let mark = DrainMark {
        revision: drain.revision,
    };
    let time = Duration::from_secs(drain.seconds);
    let marked = api.cluster().mark_draining(&pod.hub_id, &mark, time).await;
    marked.map_err(|e| not_ordered(&e))?;
    // At debug level, since it is repeated all the time.
    tracing::debug!(admin.key = %caller.key.id, hub.id = %pod.hub_id, seconds = drain.seconds, "a hub was told to give its connections away");
    Ok(Data::ok(pod))
}

/// `DELETE /v1/admin/hubs/{hubId}/drain`: that hub keeps its connections again, unless it ends.
pub(crate) async fn undrain(
    State(api): State<Api>,
    caller: KeyHolder,
    Path(hub): Path<String>,
) -> Result<StatusCode, ApiError> {
    let pod = pod(&api, &hub)?;
    let unmarked = api.cluster().unmark_draining(&pod.hub_id).await;
    unmarked.map_err(|e| not_ordered(&e))?;
    tracing::info!(admin.key = %caller.key.id, hub.id = %pod.hub_id, "a hub was told to keep its connections");
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/admin/rebalance`: for ten minutes, no slack keeps connections where they are.
pub(crate) async fn rebalance(State(api): State<Api>, caller: KeyHolder) -> Result<StatusCode, ApiError> {
    let ordered = api
        .cluster()
        .order_rebalance(Duration::from_secs(REBALANCE_SECONDS))
        .await;
    ordered.map_err(|e| not_ordered(&e))?;
    tracing::info!(admin.key = %caller.key.id, "the hubs were told to rebalance");
    Ok(StatusCode::NO_CONTENT)
}

/// The pod of a living hub.
fn pod(api: &Api, hub: &str) -> Result<PodReport, ApiError> {
    let id: HubId = hub
        .parse()
        .map_err(|e: alkhub_protocol::id::InvalidId| ApiError::bad_request(e.to_string()))?;
    let pod = api.cluster().report().into_iter().find(|pod| pod.hub_id == id);
    pod.ok_or_else(|| ApiError::new(Code::NotFound, format!("there is no hub `{id}`")))
}

/// The error when an order did not reach the hubs.
fn not_ordered(error: &ClusterError) -> ApiError {
    match error {
        ClusterError::Alone => {
            let message = "a hub without Redis is alone: there is nowhere for its connections to go";
            ApiError::new(Code::Conflict, message)
        }
        ClusterError::Unreachable(_)
        | ClusterError::Full
        | ClusterError::GivenUp
        | ClusterError::Taken
        | ClusterError::Ending => {
            tracing::warn!(error = %Chain::of(error), "an order did not get to the hubs");
            let error = CallError::new(Code::Unavailable, "Redis is not available");
            error.retryable().retry_after_ms(1_000).into()
        }
    }
}
