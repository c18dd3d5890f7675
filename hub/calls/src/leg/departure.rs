//! What happens to calls whose spoke, or whose hub, goes away.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use alkhub_hub_cluster::{Cluster, Fence};
use alkhub_protocol::{CloseCode, HubId};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::router::Excluded;
use crate::directory::{Directory, Instance};
use crate::leg::call::{Call, CallSource, To};
use crate::leg::placement::Placement;
use crate::leg::placement::relief::Look;
use crate::leg::table::CallTable;
use crate::metrics::Metrics;
use crate::relay::arrival_queue::{LostAttempt, LostWith};
use crate::relay::arrivals::Arrivals;
use crate::relay::visibility::Visibility;
use crate::relay::{Relay, RelayMessage, RemoteCall};
use crate::session::Session;
use crate::session::message::SessionMessage;
use crate::session::moves::Moves;
use crate::session::presence::Presence;
use crate::session::sessions::Sessions;

/// What a connection is told when its instance has registered over another one.
pub(crate) const REPLACED: &str = "a newer connection of this instance has registered";

/// Ends whatever had to do with a spoke's connection, or another hub, that is gone.
#[derive(Debug)]
pub(crate) struct Departures {
    pub(crate) hub: HubId,
    pub(crate) directory: Arc<Directory>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) table: Arc<CallTable>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) moves: Moves,
    pub(crate) visibility: Arc<Visibility>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) cluster: Cluster,
    pub(crate) metrics: Arc<Metrics>,
    /// How long a hub may be silent before it counts as gone.
    pub(crate) lease_ttl: Duration,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) counting: Mutex<()>,
}

// === impl Departures ===

impl Departures {
    /// Ends a session. Its calls go elsewhere if they surely never left, or are queries; the others fail at once.
    ///
    /// Returns false if it had already ended.
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
            let (instance, has_left) = match &call.leg.lock().to {
                To::Spoke { instance, number } if instance.is_of(session) => {
                    (Arc::clone(instance), *number <= last_sent)
                }
                // The call has ended, or is on its way to another instance.
                _ => continue,
            };
            if has_left {
                let not = Excluded::Registration(&instance);
                self.placement.lost(&call, &instance, not);
            } else {
                self.placement.reroute(&call, &instance);
            }
        }
        true
    }

    /// Notes that the connection of a spoke is lost, or is no longer waited for. In the first case, what waits for it
    /// goes to others if it can. In the second, if the connection is back, it gets calls that wait for others.
    pub(crate) fn reconnecting(&self, session: &Arc<Session>, is_reconnecting: bool) {
        self.sessions.set_reconnecting(session, is_reconnecting);
        if is_reconnecting && !session.is_registered() {
            // The session has ended meanwhile, and its end did not find it here.
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

    /// An instance has come, or come back: it gets calls that wait for others whose connections are lost. With `None`,
    /// any instance may have come.
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
        // If this instance has registered over another connection, that registration has a higher generation and stays.
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

    /// Remembers whether an instance that has left the directory was let go by its hub. A hub lets peers go when it
    /// drains, or has more than others.
    pub(crate) fn left(&self, gone: &Instance) {
        let is_leaving = |session: &Arc<Session>| session.outbox.is_leaving();
        let is_let_go = gone.session.as_ref().is_some_and(is_leaving);
        if is_let_go || self.cluster.draining().contains(&gone.entry.hub) {
            self.directory.note_let_go(gone);
        }
    }

    /// A registration gave way to a newer one: if it stood for a connection of this hub, that ends.
    pub(crate) fn replaced(&self, old: &Instance) {
        if let Some(session) = &old.session {
            self.fence(session);
        }
    }

    /// Closes a connection whose instance has registered with a higher generation, here or elsewhere.
    fn fence(&self, session: &Arc<Session>) {
        // If the session has moved, it is itself the newer one on its new hub, or is fenced there.
        if !session.outbox.is_away() && self.end(session) {
            tracing::info!(spoke.id = %session.spoke, instance.id = %session.instance, "a newer connection of the instance has taken its place");
            session.outbox.close(CloseCode::Replaced, REPLACED);
        }
    }

    /// Notes that another hub goes on with a session. Calls may still run on it here, but it is not connected here.
    pub(crate) fn moved(&self, session: &Arc<Session>) {
        self.sessions.set_away(session, true);
        if !session.is_registered() {
            // The session has ended meanwhile, and its end did not find it here.
            self.sessions.set_away(session, false);
        }
        self.count_instances();
    }

    /// Ends everything that had to do with another hub.
    pub(crate) fn hub_gone(&self, hub: &HubId) {
        let removed = self.directory.remove_hub(hub);
        self.not_sent(hub, &self.relay.forget(hub));
        self.moves.lost(hub.clone());
        self.visibility.hub_gone(hub);
        self.count_instances();
        // If that hub still lives, it aborts what was sent to it: it sees the conduit break.
        let lost = self.end_all_with(hub, "the caller's hub is gone", LostWith::Hub);
        tracing::info!(hub.id = %hub, instances = removed, calls = lost, "another hub is gone");
    }

    /// Whatever was under way between this hub and another one may be lost, but for what was not sent: nobody is left to
    /// wait for it.
    pub(crate) fn conduit_broke(&self, hub: &HubId, unsent: &[Bytes]) {
        self.not_sent(hub, unsent);
        self.moves.lost(hub.clone());
        let lost = self.end_all_with(hub, "the conduit to the caller's hub broke", LostWith::Conduit);
        self.visibility.conduit_broke(hub);
        tracing::warn!(hub.id = %hub, calls = lost, "the conduit to another hub broke");
    }

    /// Takes back a call, or a claim, that was for another hub and that nobody received: because nobody listens for
    /// that hub, or for a reason that says nothing about it.
    pub(crate) fn came_back(&self, hub: &HubId, message: &Bytes, nobody_listens: bool) {
        match RelayMessage::decode(hub.clone(), message) {
            Ok(RelayMessage::Call { call, .. }) => self.call_came_back(&call.remote),
            Ok(RelayMessage::Session { from, message }) => {
                if let SessionMessage::Claim { claim, .. } = message {
                    self.moves.came_back(from, claim, nobody_listens);
                }
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Takes back the calls among messages that no carrier took before the conduit to a hub ended. That says nothing
    /// about the hub: claims are answered by [`Moves::lost`].
    fn not_sent(&self, hub: &HubId, messages: &[Bytes]) {
        for message in messages {
            if let Ok(RelayMessage::Call { call, .. }) = RelayMessage::decode(hub.clone(), message) {
                self.call_came_back(&call.remote);
            }
        }
    }

    fn call_came_back(&self, remote: &RemoteCall) {
        let Some(call) = self.table.get(remote.key) else { return };
        if let Some(instance) = call.at_hub(remote) {
            self.placement.came_back(&call, &instance);
        }
    }

    /// Ends every call that another hub is involved in. Those sent there are lost, behind what has arrived of them;
    /// those that came from there have lost their callers, and their spokes are told `reason`. Returns how many were
    /// sent there.
    fn end_all_with(&self, hub: &HubId, reason: &str, with: LostWith) -> usize {
        let concerned = self.table.select(|call| call.other_hub().as_ref() == Some(hub));
        let mut lost = 0;
        for call in concerned {
            if matches!(call.source, CallSource::Hub { .. }) {
                self.table.caller_lost(call.key, reason);
                continue;
            }
            let (instance, attempt) = {
                let leg = call.leg.lock();
                (leg.to.instance().cloned(), leg.resent)
            };
            // The call may have gone elsewhere meanwhile.
            if let Some(from) = instance.filter(|instance| instance.entry.hub == *hub) {
                lost += 1;
                self.arrivals.lose(&call, LostAttempt { attempt, from, with });
            }
        }
        lost
    }

    /// Looks for hubs whose departure was missed, because a snapshot of the directory took the place of the news.
    ///
    /// Redis may have lost what it knew, and then live hubs need time to come back. So a hub is gone if it is away now
    /// and still is after a whole lease.
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

    /// The hubs that calls or sessions go to or come from, or that messages wait for, and that have neither a lease nor
    /// an instance.
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
        // One at a time, or an older count could be set after a newer one.
        let _counting = self.counting.lock();
        self.metrics.instances_known.set(count(self.directory.len()));
        let sessions = self.sessions.count();
        self.metrics.spokes_connected.set(count(sessions.connected));
        self.metrics.spokes_reconnecting.set(count(sessions.reconnecting));
    }
}
