//! Reliable, ordered messages between every two hubs, over carriers that are neither reliable nor ordered when they
//! break.
//!
//! What is sent arrives once and in order, however often the carrier breaks in between. Where that is impossible, both
//! sides see a break ([`Incoming::next`] returns [`PeerEvent::Broken`]): whatever was under way between the two hubs is
//! lost, and they start afresh. Only calls that no carrier has taken yet come back with it. So nobody
//! in the layers above needs to ask whether a message arrived.
//!
//! Sequence numbers achieve this: each message has its place in the sender's order and carries an acknowledgement, and
//! a message that is not acknowledged is kept and sent again ([`window`], [`peer`]).
//!
//! Invariants
//! - Messages kept for another hub are bounded, and charged to the hub's budget. As room runs out, calls and items are
//!   refused first and ends later; small messages never are. The bytes that wait for a carrier are either the same
//!   ones, or ones sent again within that carrier's bound.
//! - Messages are handed to the carrier in order, under the lock of their side.
//! - A conduit that is idle costs nothing.

mod incoming;
mod message;
mod peer;
mod sending;
mod sides;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;

use alkhub_budget::Budgets;
use alkhub_protocol::HubId;
use alkhub_redis::{LinkState, Undelivered};
use tokio::sync::{mpsc, watch};

use crate::carrier::Carriers;
use crate::inbox::Inbox;
use crate::leases::Leases;
pub use incoming::{Incoming, PeerEvent};
pub use sending::Conduits;
use sides::Sides;
pub use window::Class;

/// Where the messages of other hubs come from.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) inbox: Inbox,
    /// What the carrier returns as undeliverable.
    pub(crate) returned: mpsc::Receiver<Undelivered>,
    /// The state of the link to Redis; `None` if there is no other hub.
    pub(crate) link: Option<watch::Receiver<LinkState>>,
}

/// Creates the conduits of a hub: the handle that sends, and the one that receives.
pub(crate) fn new(
    hub: &HubId,
    carriers: Carriers,
    leases: Arc<Leases>,
    budgets: Budgets,
    sources: Sources,
) -> (Conduits, Incoming) {
    let Sources { inbox, returned, link } = sources;
    let metrics = carriers.metrics.clone();
    let sides = Arc::new(Sides::new(hub, carriers, metrics, budgets));
    let incoming = Incoming::new(Arc::clone(&sides), leases, inbox, returned, link);
    (Conduits::new(sides), incoming)
}
