//! The figures that hubs publish about themselves each second, and the drain marks that an operator sets on them.
//!
//! Invariants
//! - No record decides that a hub is dead, nor that it is alive: the leases name the hubs, and these records are only
//!   what those hubs report about themselves.
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

/// How long a record counts after its last renewal, and how long figures count after they were read.
const TTL: Duration = Duration::from_secs(5);

/// The record that a ready hub publishes about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MemberRecord {
    /// The name of its pod; empty outside Kubernetes.
    pub pod: String,
    /// The revision of its Hub that it belongs to; empty where nobody counts revisions.
    pub revision: String,
    /// Whether it gives its connections away.
    pub draining: bool,
    /// Open WebSockets.
    pub connections: u32,
    /// How many calls it runs.
    pub in_flight: u64,
    /// Sessions that have lost their connection and whose peer may come back; absent if the hub does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconnecting: Option<u64>,
    /// Its figures for the last minute; absent if the hub does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_minute: Option<LastMinute>,
    /// Its share of connections, in relation to the other hubs.
    pub weight: u32,
    /// The hub URL at which peers in its cluster reach this hub and no other; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The revision that connections should get to, if its mark says so ([`DrainMark::revision`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
}

/// An operator's order that a hub give its connections away, valid as long as it is repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DrainMark {
    /// The revision to which the connections should go; if absent, the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// All records, as one look has read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRecords {
    /// The records of ready hubs, including this one's if it has published one.
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
    /// Publishes this hub's record, if there is one, and reads the records of all hubs that have a lease.
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
            // A mark that cannot be decoded is still a mark.
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

/// Marks a hub as one that should give its connections away.
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

/// Removes that mark.
pub(crate) async fn unmark_draining(redis: Option<&Redis>, hub: &HubId) -> Result<(), Error> {
    Ok(redis.ok_or(Error::Alone)?.incarnation()?.unmark_draining(hub).await?)
}

/// Orders all hubs to rebalance.
pub(crate) async fn order_rebalance(redis: Option<&Redis>, time: Duration) -> Result<(), Error> {
    Ok(redis.ok_or(Error::Alone)?.incarnation()?.order_rebalance(time).await?)
}
