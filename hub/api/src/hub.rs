//! What the operator writes into a Hub's status.

use std::collections::BTreeSet;

use alkhub_edge::VERSION;
use alkhub_edge::envelope::Data;
use alkhub_edge::error::ApiError;
use alkhub_hub_cluster::LinkState;
use alkhub_protocol::admin::{HubReport, PartState};
use axum::extract::State;

use crate::api::Api;

/// `GET /v1/admin/hub`.
pub(crate) async fn report(State(api): State<Api>) -> Result<Data<HubReport>, ApiError> {
    let connected = api.calls().connected();
    let spokes: BTreeSet<_> = connected.iter().map(alkhub_calls::Connected::spoke).collect();
    let redis = match &*api.cluster().link().borrow() {
        LinkState::Local => PartState::None,
        LinkState::Up => PartState::Up,
        LinkState::Down(_) => PartState::Down,
    };
    Ok(Data::ok(HubReport {
        hub_id: api.edge().hub_id().clone(),
        version: VERSION.to_owned(),
        channel_prefix: api.parts().channel_prefix.clone(),
        pods: api.cluster().pods().to_vec(),
        spokes_connected: u64::try_from(spokes.len()).unwrap_or(u64::MAX),
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
