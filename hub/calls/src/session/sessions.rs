//! The sessions of spokes on this hub, and the registrations under way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use alkhub_protocol::{InstanceId, SpokeName};
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::register::newest::Newest;
use crate::register::turns::Turns;
use crate::session::Session;
use crate::session::outbox::Outbox;

/// Registered sessions by their id.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: DashMap<Arc<str>, Arc<Session>>,
    /// Those that have lost their connections, and wait for their peers.
    reconnecting: Mutex<HashMap<Arc<str>, Arc<Session>>>,
    /// The ids of those with which other hubs go on, and on which calls still run here.
    away: Mutex<HashSet<Arc<str>>>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) newest: Arc<Newest>,
}

/// How many registered sessions there are, without those with which other hubs go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionCounts {
    pub(crate) connected: usize,
    pub(crate) reconnecting: usize,
}

// === impl Sessions ===

impl Sessions {
    /// How many are connected, and how many are reconnecting.
    pub(crate) fn count(&self) -> SessionCounts {
        let (reconnecting, away) = (self.reconnecting.lock().len(), self.away.lock().len());
        SessionCounts {
            connected: self.all.len().saturating_sub(reconnecting + away),
            reconnecting,
        }
    }

    /// The session of an outbox: the one over which it has registered before, or a new one.
    pub(crate) fn session(&self, spoke: &SpokeName, instance: &InstanceId, outbox: Outbox) -> Arc<Session> {
        let id = Arc::clone(outbox.session());
        let new = || Arc::new(Session::new(spoke.clone(), instance.clone(), outbox));
        Arc::clone(&self.all.entry(id).or_insert_with(new))
    }

    /// The registered session with this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.all.get(id).map(|session| Arc::clone(&session))
    }

    /// Forgets a session that has ended.
    pub(crate) fn remove(&self, session: &Arc<Session>) {
        let is_same = |_: &Arc<str>, registered: &Arc<Session>| Arc::ptr_eq(registered, session);
        self.all.remove_if(session.id(), is_same);
        self.set_away(session, false);
    }

    /// Notes whether another hub goes on with a session.
    pub(crate) fn set_away(&self, session: &Session, is_away: bool) {
        let mut away = self.away.lock();
        match is_away {
            true => away.insert(Arc::clone(session.id())),
            false => away.remove(session.id()),
        };
    }

    /// Notes whether the connection of a session is lost.
    pub(crate) fn set_reconnecting(&self, session: &Arc<Session>, is_reconnecting: bool) {
        let mut reconnecting = self.reconnecting.lock();
        match is_reconnecting {
            true => reconnecting.insert(Arc::clone(session.id()), Arc::clone(session)),
            false => reconnecting.remove(session.id()),
        };
    }

    /// The sessions that have lost their connections and have calls.
    pub(crate) fn reconnecting_with_calls(&self) -> Vec<Arc<Session>> {
        let reconnecting = self.reconnecting.lock();
        let busy = reconnecting.values().filter(|session| session.outbox.in_flight() > 0);
        busy.cloned().collect()
    }

    /// The spokes that have sent anything since this was last asked, with repetitions.
    pub(crate) fn take_heard(&self) -> Vec<SpokeName> {
        let heard = self.all.iter().filter(|session| session.take_heard());
        heard.map(|session| session.spoke.clone()).collect()
    }
}
