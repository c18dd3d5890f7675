//! What happens to calls whose spoke, or whose hub, goes away.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use alkhub_hub_cluster::{Cluster, Fence};
use alkhub_protocol::{CallError, CloseCode, Code, HubId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::{Directory, Instance};
use crate::leg::call::{Call, CallSource, To};
use crate::leg::outcome::End;
use crate::leg::placement::Placement;
use crate::leg::placement::relief::Look;
use crate::leg::table::{self, CallTable};
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::relay::visibility::Visibility;
use crate::session::Session;
use crate::session::moves::Moves;
use crate::session::presence::Presence;
use crate::session::sessions::Sessions;

/// What a connection is told whose instance has registered over another one.
pub(crate) const REPLACED: &str = "a newer connection of this instance has registered";

/// Ends what had to do with a spoke's connection, or with another hub, that is gone.
#[derive(Debug)]
pub(crate) struct Departures {
    pub(crate) hub: HubId,
    pub(crate) directory: Arc<Directory>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) table: Arc<CallTable>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) moves: Moves,
    pub(crate) visibility: Arc<Visibility>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) cluster: Cluster,
    pub(crate) metrics: Arc<Metrics>,
    /// How long a hub may be silent before it is gone.
    pub(crate) lease_ttl: Duration,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) counting: Mutex<()>,
}

// === impl Departures ===

impl Departures {
    /// Ends a session: its calls fail at once, or go elsewhere where they surely never left.
    ///
    /// Answers false when it had ended before.
    pub(crate) fn end(&self, session: &Arc<Session>) -> bool {
        let Some(calls) = session.end() else { return false };
        self.sessions.remove(session);
        if session.was_reconnecting() {
            self.reconnecting(session, false);
        }
        self.forget(session);
        let last_sent = session.outbox.seal();
        for key in calls {
            let Some(call) = self.table.get(key) else { continue };
            let unsent = match &call.leg.lock().to {
                To::Spoke { instance, number } if instance.is_of(session) => {
                    Some(Arc::clone(instance)).filter(|_| *number > last_sent)
                }
                // Ended, or on its way to another instance.
                _ => continue,
            };
            match unsent {
                Some(instance) => self.placement.reroute(&call, &instance),
                None => self
                    .table
                    .end(key, End::Failed(table::spoke_lost(&call, &session.spoke)), None),
            }
        }
        true
    }

    /// The connection of a spoke is lost: what waits for it goes to others where it can. Or it is awaited no more, and where
    /// it is back it gets what waits for others.
    pub(crate) fn reconnecting(&self, session: &Arc<Session>, is_reconnecting: bool) {
        self.sessions.set_reconnecting(session, is_reconnecting);
        if is_reconnecting && !session.is_registered() {
            // It has ended meanwhile, and that did not find it here.
            self.sessions.set_reconnecting(session, false);
        }
        self.count_instances();
        if is_reconnecting {
            self.relieve(session, None, &mut Look::default());
        } else if session.is_open() && !session.outbox.is_away() {
            let instance = self.directory.instance(&session.spoke, &session.instance);
            if let Some(instance) = instance.filter(|instance| instance.is_of(session)) {
                self.came(Some(&instance));
            }
        }
    }

    /// An instance has come, or back: it gets calls that wait for others whose connections are lost. Without one, anybody may
    /// have come.
    pub(crate) fn came(&self, instance: Option<&Instance>) {
        let mut look = Look::default();
        for session in self.sessions.reconnecting_with_calls() {
            self.relieve(&session, instance, &mut look);
        }
    }

    fn relieve(&self, session: &Arc<Session>, by: Option<&Instance>, look: &mut Look) {
        for key in session.running() {
            let call = self.table.on(session, key);
            let could = |call: &Arc<Call>| by.is_none_or(|by| by.offers.contains_key(&call.operation.name));
            if let Some(call) = call.filter(could) {
                self.placement.relieve(&call, session, look);
            }
        }
    }

    /// Takes the registration of a session that has ended out of this hub's directory.
    pub(crate) fn forget(&self, session: &Session) {
        let key = (session.spoke.clone(), session.instance.clone());
        // A registration of this instance over another connection has a higher generation and stays.
        let fence = Fence {
            generation: session.generation(),
            hub: &self.hub,
        };
        if let Some(gone) = self.directory.remove(&key, fence) {
            self.left(&gone);
        }
        if session.generation() > 0 {
            let is_here = || self.directory.has_instances_of(&session.spoke);
            self.presence.left_unless(&session.spoke, is_here);
        }
        self.count_instances();
    }

    /// Remembers of an instance that is out of the directory whether a hub let it go, which it does by itself when it drains or
    /// has more than others.
    pub(crate) fn left(&self, gone: &Instance) {
        let is_leaving = |session: &Arc<Session>| session.outbox.is_leaving();
        let is_let_go = gone.session.as_ref().is_some_and(is_leaving);
        if is_let_go || self.cluster.draining().contains(&gone.entry.hub) {
            self.directory.note_let_go(gone);
        }
    }

    /// A registration gave way to a newer one: a connection of this hub that it stood for ends.
    pub(crate) fn replaced(&self, old: &Instance) {
        if let Some(session) = &old.session {
            self.fence(session);
        }
    }

    /// Closes a connection whose instance has registered with a higher generation, here or elsewhere.
    fn fence(&self, session: &Arc<Session>) {
        // Where it has moved to it is the newer one, or is fenced there.
        if !session.outbox.is_away() && self.end(session) {
            tracing::info!(spoke.id = %session.spoke, instance.id = %session.instance, "a newer connection of the instance has taken its place");
            session.outbox.close(CloseCode::Replaced, REPLACED);
        }
    }

    /// Ends everything that had to do with another hub.
    pub(crate) fn hub_gone(&self, hub: &HubId) {
        let removed = self.directory.remove_hub(hub);
        self.relay.forget(hub);
        self.moves.lost(hub.clone());
        self.visibility.hub_gone(hub);
        self.count_instances();
        let gone = |call: &Call, instance: &Instance| table::spoke_lost(call, &instance.entry.spoke);
        // That hub aborts what it was sent, should it live: it sees the conduit break.
        let lost = self.end_all_with(hub, "the caller's hub is gone", None, gone);
        tracing::info!(hub.id = %hub, instances = removed, calls = lost, "another hub is gone");
    }

    /// What was under way between this hub and another one may be lost: nobody waits for it.
    pub(crate) fn conduit_broke(&self, hub: &HubId) {
        self.moves.lost(hub.clone());
        // A call may have been sent since, and the other hub takes that for a good one.
        let stop = Some("the conduit between the hubs broke");
        let lost = self.end_all_with(hub, "the conduit to the caller's hub broke", stop, |call, _| {
            link_lost(call)
        });
        self.visibility.conduit_broke(hub);
        tracing::warn!(hub.id = %hub, calls = lost, "the conduit to another hub broke");
    }

    /// Ends every call that another hub has to do with: those sent there with an error, those that came from there have lost
    /// their callers, for the reason that their spokes are told. Those sent there are aborted too, for the reason `stop`. Tells
    /// how many those were.
    fn end_all_with(
        &self,
        hub: &HubId,
        reason: &str,
        stop: Option<&str>,
        error: impl Fn(&Call, &Instance) -> CallError,
    ) -> usize {
        let concerned = self.table.select(|call| call.other_hub().as_ref() == Some(hub));
        let mut lost = 0;
        for call in concerned {
            if matches!(call.source, CallSource::Hub { .. }) {
                self.table.caller_lost(call.key, reason);
                continue;
            }
            let instance = call.leg.lock().to.instance().cloned();
            // It may have gone elsewhere meanwhile.
            if let Some(instance) = instance.filter(|instance| instance.entry.hub == *hub) {
                lost += 1;
                self.table.end(call.key, End::Failed(error(&call, &instance)), stop);
            }
        }
        lost
    }

    /// Looks for hubs that are gone and whose news was missed: a snapshot of the directory took its place.
    ///
    /// Redis may have lost what it knew, and then hubs that live need time to come back: who is away now and still
    /// is a whole lease later is gone.
    pub(crate) fn look_for_gone(self: &Arc<Self>) {
        let away = self.away();
        if away.is_empty() {
            return;
        }
        let departures = Arc::clone(self);
        self.tasks.spawn(async move {
            let waited = tokio::time::sleep(departures.lease_ttl);
            if departures.stop.run_until_cancelled(waited).await.is_some() {
                let still = departures.away();
                away.intersection(&still).for_each(|hub| departures.hub_gone(hub));
            }
        });
    }

    /// Hubs that calls or sessions go to or come from, or that something is said to, and that have neither a lease nor an instance.
    fn away(&self) -> HashSet<HubId> {
        let concerned = self.table.select(|call| call.other_hub().is_some());
        let mut away = self.moves.partners();
        away.extend(concerned.iter().filter_map(|call| call.other_hub()));
        away.extend(self.relay.busy());
        for pod in self.cluster.pods().iter() {
            away.remove(&pod.hub_id);
        }
        if !away.is_empty() {
            for instance in self.directory.instances() {
                away.remove(&instance.entry.hub);
            }
        }
        away
    }

    /// Brings the gauges up to date.
    pub(crate) fn count_instances(&self) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        // One at a time: else an older count could be set after a newer one.
        let _counting = self.counting.lock();
        self.metrics.instances_known.set(count(self.directory.len()));
        let sessions = self.sessions.count();
        self.metrics.spokes_connected.set(count(sessions.connected));
        self.metrics.spokes_reconnecting.set(count(sessions.reconnecting));
    }
}

/// The error of a call of which something was lost between two hubs.
fn link_lost(call: &Call) -> CallError {
    let message = "the conduit between the hubs broke, and an answer may be lost";
    table::undecided(call, Code::Unavailable, message.to_owned())
}
