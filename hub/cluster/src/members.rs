//! The figures that hubs publish of themselves each second, and the drain marks that an operator has set for them.
//!
//! Invariants
//! - No record decides that a hub is dead, nor that it lives: hubs are those that the leases name, and these records
//!   are only what those report of themselves.
//! - A look reads one key for each hub and two more, whatever else is under the prefix.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::HubId;
use alkhub_protocol::admin::{LastMinute, PodReport};
use alkhub_protocol::json::strict;
use alkhub_redis::{MemberExchange, Redis};
use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::Error;
use crate::leases::Leases;

/// A record that was not renewed for so long is none any more; nor are figures that were read so long ago.
const TTL: Duration = Duration::from_secs(5);

/// The record that a ready hub publishes of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MemberRecord {
    /// Its pod's name; empty outside Kubernetes.
    pub pod: String,
    /// The revision of its Hub that it is of; empty where nobody counts them.
    pub revision: String,
    /// Whether it gives its connections away.
    pub draining: bool,
    /// Open WebSockets.
    pub connections: u32,
    /// Calls that run on it.
    pub in_flight: u64,
    /// Sessions whose connection is lost and whose peer may come back; absent from a hub that does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconnecting: Option<u64>,
    /// How it went there in the last minute; absent from a hub that does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_minute: Option<LastMinute>,
    /// Its share of connections beside the other hubs.
    pub weight: u32,
    /// Where peers in its cluster reach it and no other hub, as a hub's URL; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The revision that connections should get to, where its mark says so ([`DrainMark::revision`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
}

/// The order of an operator that a hub give its connections away, for as long as it is repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DrainMark {
    /// The revision to which the connections should get; without it, the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// All records, as one look has read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRecords {
    /// Those of ready hubs, this one included when it has published one.
    pub hubs: BTreeMap<HubId, MemberRecord>,
    /// The mark of this hub.
    pub drain: Option<DrainMark>,
    /// For how much longer an order to rebalance holds.
    pub rebalance: Option<Duration>,
}

/// The records as they were last read.
#[derive(Debug, Default)]
pub(crate) struct LastMembers(ArcSwapOption<(Instant, BTreeMap<HubId, MemberRecord>)>);

// === impl LastMembers ===

impl LastMembers {
    /// Publishes the own record, if there is one, and reads those of all hubs that have a lease.
    pub(crate) async fn exchange(
        &self,
        redis: Option<&Redis>,
        leases: &Leases,
        own: Option<&MemberRecord>,
    ) -> Result<MemberRecords, Error> {
        let redis = redis.ok_or(Error::Alone)?;
        let ids: Vec<HubId> = leases.pods().iter().map(|pod| pod.hub_id.clone()).collect();
        let record = own.map(|own| serde_json::to_string(own).expect("a record has a JSON form"));
        let exchange = MemberExchange {
            record: record.as_deref(),
            ttl: TTL,
            hubs: &ids,
        };
        let stored = redis.incarnation()?.exchange_members(exchange).await?;
        let records = ids.into_iter().zip(stored.records);
        let hubs: BTreeMap<HubId, MemberRecord> = records
            .filter_map(|(hub, record)| Some((hub, strict::from_str(&record?).ok()?)))
            .collect();
        self.0.store(Some(Arc::new((Instant::now(), hubs.clone()))));
        Ok(MemberRecords {
            hubs,
            // One that cannot be read is one.
            drain: stored.drain.map(|mark| strict::from_str(&mark).unwrap_or_default()),
            rebalance: stored.rebalance,
        })
    }

    /// The reports of all pods: each lease, with the figures that the pod has published since.
    pub(crate) fn add_to(&self, pods: &[PodReport]) -> Vec<PodReport> {
        let last = self.0.load();
        let fresh = last.as_ref().filter(|last| last.0.elapsed() < TTL);
        let reported = pods
            .iter()
            .map(|pod| match fresh.and_then(|last| last.1.get(&pod.hub_id)) {
                Some(record) => PodReport {
                    connections: record.connections.into(),
                    in_flight: Some(record.in_flight),
                    reconnecting: record.reconnecting,
                    last_minute: record.last_minute,
                    ..pod.clone()
                },
                None => pod.clone(),
            });
        reported.collect()
    }
}

/// Marks a hub as one that is to give its connections away.
pub(crate) async fn mark_draining(
    redis: Option<&Redis>,
    hub: &HubId,
    mark: &DrainMark,
    time: Duration,
) -> Result<(), Error> {
    let mark = serde_json::to_string(mark).expect("a mark has a JSON form");
    let incarnation = redis.ok_or(Error::Alone)?.incarnation()?;
    Ok(incarnation.mark_draining(hub, &mark, time).await?)
}

/// Takes that mark away.
pub(crate) async fn unmark_draining(redis: Option<&Redis>, hub: &HubId) -> Result<(), Error> {
    Ok(redis.ok_or(Error::Alone)?.incarnation()?.unmark_draining(hub).await?)
}

/// Orders all hubs to rebalance.
pub(crate) async fn order_rebalance(redis: Option<&Redis>, time: Duration) -> Result<(), Error> {
    Ok(redis.ok_or(Error::Alone)?.incarnation()?.order_rebalance(time).await?)
}
