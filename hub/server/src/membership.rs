//! Looks at all hubs once a second: publishes what this one holds, reads what the others hold, and has the sockets
//! balanced accordingly.
//!
//! Invariants
//! - A hub publishes from when it is ready until its end, so that nobody counts on a hub that takes no connections.
//! - What could not be read stays as it was: the rule sees its age, and moves nothing because of it.
//! - A hub that was told to drain does so until a look finds that this no longer holds; a hub that is ending drains to
//!   its end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use alkhub_balance::{Member, Membership};
use alkhub_edge::metrics::ConnectionKind;
use alkhub_hub_cluster::{DrainMark, MemberRecord, MemberRecords};
use alkhub_protocol::Chain;
use alkhub_protocol::admin::{LastMinute, REBALANCE_SECONDS};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::app::App;
use crate::broken_links::BrokenLinks;
use crate::minute_window::MinuteWindow;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Each hub's share of the connections.
const WEIGHT: u32 = 1;

/// Looks until the hub stops.
pub(crate) async fn watch(app: App) {
    if app.cluster.link().is_none() {
        // There is no other hub.
        return app.edge.scope().stop.cancelled().await;
    }
    let (mut minute, mut links) = (MinuteWindow::default(), BrokenLinks::default());
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut membership = Membership {
        own: app.edge.hub_id().as_str().into(),
        members: Vec::new(),
        doubtful: Vec::new(),
        read_at: Duration::ZERO,
        wanted: None,
        rebalance: None,
    };
    loop {
        tokio::select! {
            () = app.edge.scope().stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let last_minute = minute.add(totals(&app));
        let own = app.readiness.is_serving().then(|| record(&app, last_minute));
        match timeout(LOOK, app.cluster.exchange(own.as_ref())).await {
            Ok(Ok(members)) => {
                let now = app.sockets.balance_time();
                read(&mut membership, &members, now);
                links.look(now, app.cluster.linked());
                membership.doubtful = links.doubtful().map(|hub| Arc::from(hub.as_str())).collect();
                app.sockets.hubs_are_at(urls(&members));
                mark(&app, members.drain);
            }
            Ok(Err(error)) => tracing::debug!(error = %Chain::of(&error), "the other hubs were not looked at"),
            Err(_) => tracing::debug!("the other hubs were not looked at in time"),
        }
        app.sockets.rebalance(&membership, app.is_draining());
    }
}

/// Follows the drain mark that a look has found.
fn mark(app: &App, found: Option<DrainMark>) {
    if app.marked.set(found) {
        let draining = app.marked.is_draining();
        tracing::info!(hub.id = %app.edge.hub_id(), draining, "the hub was told whether to give its connections away");
        // Calls go elsewhere from now on, or come here again.
        app.cluster.announce(|| app.lease());
    }
}

/// Totals of what has ended on this hub.
fn totals(app: &App) -> LastMinute {
    let (calls, returns) = (app.calls.totals(), app.sockets.returns());
    LastMinute {
        calls: calls.ended,
        calls_failed: calls.failed,
        returns: returns.all,
        returns_late: returns.late,
    }
}

fn record(app: &App, last_minute: LastMinute) -> MemberRecord {
    let connections = app.edge.open().count(ConnectionKind::Websocket);
    let reconnecting = app.edge.open().count(ConnectionKind::Reconnecting);
    MemberRecord {
        pod: app.config.pod.name.clone(),
        revision: app.config.pod.revision.clone(),
        draining: app.is_draining(),
        connections: u32::try_from(connections).unwrap_or(u32::MAX),
        in_flight: u64::try_from(app.calls.in_flight()).unwrap_or(u64::MAX),
        reconnecting: Some(u64::try_from(reconnecting).unwrap_or(u64::MAX)),
        last_minute: Some(last_minute),
        weight: WEIGHT,
        url: app.config.pod_url(),
        wanted: app.marked.wanted(),
    }
}

/// Converts what was read into the form that the rule uses.
fn read(membership: &mut Membership, members: &MemberRecords, now: Duration) {
    // Revisions are compared within one look, so their ranks are enough.
    let revisions: BTreeSet<Revision<'_>> = members
        .hubs
        .values()
        .map(|record| Revision::of(&record.revision))
        .collect();
    let place = |revision: &str| revisions.range(..Revision::of(revision)).count() as u64;
    let wanted = members.hubs.values().find_map(|record| record.wanted.as_deref());
    membership.wanted = wanted
        .filter(|wanted| revisions.contains(&Revision::of(wanted)))
        .map(place);
    membership.members = members
        .hubs
        .iter()
        .map(|(hub, record)| Member {
            pod: Arc::from(hub.as_str()),
            revision: place(&record.revision),
            draining: record.draining,
            connections: record.connections,
            weight: record.weight,
        })
        .collect();
    membership.read_at = now;
    let rebalance = Duration::from_secs(REBALANCE_SECONDS);
    membership.rebalance = members.rebalance.map(|left| (now + left).saturating_sub(rebalance));
}

/// Where each hub is reached by peers in the cluster, by its id.
fn urls(members: &MemberRecords) -> HashMap<Arc<str>, String> {
    let urls = members.hubs.iter().filter_map(|(hub, record)| {
        let url = record.url.clone()?;
        Some((Arc::from(hub.as_str()), url))
    });
    urls.collect()
}

/// A revision with its order: by the number that it begins with, then by its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Revision<'a> {
    number: u64,
    text: &'a str,
}

// === impl Revision ===

impl<'a> Revision<'a> {
    fn of(text: &'a str) -> Self {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        Self {
            number: text[..digits].parse().unwrap_or(0),
            text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(revisions: &[(&str, Option<&str>)]) -> MemberRecords {
        let record = |(place, (revision, wanted)): (usize, &(&str, Option<&str>))| {
            let record = MemberRecord {
                revision: (*revision).to_owned(),
                wanted: wanted.map(str::to_owned),
                connections: 1,
                weight: WEIGHT,
                ..MemberRecord::default()
            };
            (format!("hub-{place}").parse().expect("an id"), record)
        };
        MemberRecords {
            hubs: revisions.iter().enumerate().map(record).collect(),
            ..MemberRecords::default()
        }
    }

    fn read_of(members: &MemberRecords) -> Membership {
        let mut membership = Membership {
            own: "hub-0".into(),
            members: Vec::new(),
            doubtful: Vec::new(),
            read_at: Duration::ZERO,
            wanted: None,
            rebalance: None,
        };
        read(&mut membership, members, Duration::from_secs(1_000));
        membership
    }

    #[test]
    fn revisions_are_ordered_by_their_numbers_and_the_wanted_one_is_that_of_a_mark() {
        let membership = read_of(&members(&[("9-b", None), ("10-a", Some("9-b")), ("9-b", None)]));

        let places: Vec<u64> = membership.members.iter().map(|member| member.revision).collect();
        assert_eq!((places, membership.wanted), (vec![0, 1, 0], Some(0)));
    }

    #[test]
    fn a_wanted_revision_that_no_pod_has_is_none() {
        let membership = read_of(&members(&[("1", Some("2")), ("1", None)]));

        assert_eq!(membership.wanted, None);
    }

    #[test]
    fn an_order_to_rebalance_is_as_old_as_its_time_has_run() {
        let left = |seconds| MemberRecords {
            rebalance: Some(Duration::from_secs(seconds)),
            ..members(&[("", None)])
        };

        assert_eq!(
            read_of(&left(REBALANCE_SECONDS)).rebalance,
            Some(Duration::from_secs(1_000))
        );
        assert_eq!(read_of(&left(590)).rebalance, Some(Duration::from_secs(990)));
        assert_eq!(read_of(&members(&[("", None)])).rebalance, None);
    }
}
