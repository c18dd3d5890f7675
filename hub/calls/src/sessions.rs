//! The connections to this hub by which spokes are registered, and the registrations under way.

use std::sync::Arc;

use alkhub_protocol::{InstanceId, SpokeName};
use dashmap::DashMap;

use crate::link::{Connection, Link};
use crate::register::newest::Newest;
use crate::register::turns::Turns;

/// Registered connections by their id.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    links: DashMap<String, Arc<Link>>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) newest: Arc<Newest>,
}

// === impl Sessions ===

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    /// The link of a connection: the one by which it has registered before, or a new one.
    pub(crate) fn link(&self, spoke: &SpokeName, instance: &InstanceId, connection: Connection) -> Arc<Link> {
        let id = connection.id.clone();
        let new = || Arc::new(Link::new(spoke.clone(), instance.clone(), connection));
        Arc::clone(&self.links.entry(id).or_insert_with(new))
    }

    /// Forgets a link that is lost.
    pub(crate) fn remove(&self, link: &Arc<Link>) {
        let is_same = |_: &String, registered: &Arc<Link>| Arc::ptr_eq(registered, link);
        self.links.remove_if(&link.connection.id, is_same);
    }

    /// The spokes that were heard since this was last asked, with repetitions.
    pub(crate) fn take_heard(&self) -> Vec<SpokeName> {
        let heard = self.links.iter().filter(|link| link.take_heard());
        heard.map(|link| link.spoke.clone()).collect()
    }
}
