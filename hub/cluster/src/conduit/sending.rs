//! Sends to other hubs.
//!
//! Invariants
//! - Nothing here blocks: a message without room is refused, and one that the carrier does not accept now is sent again
//!   later.
//! - Messages that wait to be sent again go first.
//! - The refusal of a call gives the reason: too much waits, the hub's budget is used up, or the carrier is down or was
//!   until just now. It waits its turn only where a link is full.

use std::sync::Arc;

use alkhub_protocol::HubId;
use bytes::Bytes;
use tokio::time::Instant;

use super::sides::Sides;
use super::window::{Class, NoRoom};
use crate::carrier::NotSent;

/// Sends to other hubs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Conduits(Arc<Sides>);

// === impl Conduits ===

impl Conduits {
    pub(super) fn new(sides: Arc<Sides>) -> Self {
        Self(sides)
    }

    /// Sends a message, given in parts. Never waits.
    ///
    /// # Errors
    /// The message was not accepted, and will not arrive. A [`Class::Control`] is always accepted, a [`Class::End`]
    /// nearly always.
    pub fn send(&self, to: &HubId, class: Class, payload: &[&[u8]]) -> Result<(), NotSent> {
        let (sides, side) = (&self.0, self.0.towards(to));
        let mut known = side.known.lock();
        let (peer, now) = (&mut known.peer, Instant::now());
        if peer.window().is_behind() {
            // At once, if possible.
            if !sides.carriers.is_down(to) {
                peer.window().carrier_is_back(now);
            }
            sides.send_again(to, peer, now);
        }
        let bytes = payload.iter().map(|part| part.len()).sum();
        let header = match peer.next(class, bytes) {
            Ok(header) => header,
            Err(NoRoom::ForThis) => return Err(NotSent::Full),
            Err(NoRoom::InBudget) => return Err(NotSent::Exhausted),
            Err(NoRoom::ForAnything) => {
                let unsent = sides.give_up(to, peer);
                sides.broke(to, unsent);
                return Err(NotSent::Full);
            }
        };
        let (message, kept) = header.encode(&sides.hub, payload);
        // A link that is full has room again in a moment; with Redis nobody knows.
        let may_wait = |reason| class != Class::Call || reason == NotSent::Full && sides.carriers.is_linked(to);
        let taken = if peer.pushed(class, kept, now) {
            sides.carriers.send(to, message)
        } else if may_wait(NotSent::Full) {
            // It goes after the others that wait for the carrier.
            Ok(())
        } else if sides.carriers.is_down(to) {
            Err(NotSent::Unreachable)
        } else {
            Err(peer.window().refusal())
        };
        match taken {
            Ok(()) => {}
            // The call can go elsewhere at once.
            Err(reason) if !may_wait(reason) => {
                peer.retract(now);
                return Err(reason);
            }
            Err(reason) => peer.not_taken(header.sequence, reason, now),
        }
        drop(known);
        sides.activate();
        Ok(())
    }

    /// The hubs that have not acknowledged everything, or to which something still has to be sent.
    pub fn busy(&self) -> Vec<HubId> {
        let sides = self.0.all().into_iter();
        let busy = sides.filter(|side| !side.known.lock().peer.is_idle());
        busy.map(|side| side.hub.clone()).collect()
    }

    /// Notes that a hub is now reached over another carrier.
    pub(crate) fn carrier_changed(&self, hub: &HubId) {
        self.0.switched(hub);
    }

    /// Ends the conduit to a hub that is gone. If the hub lives after all, it will see a break. Returns the messages of
    /// [`Class::Call`] that no carrier has taken: nobody has received them, and nobody will.
    pub fn forget(&self, hub: &HubId) -> Vec<Bytes> {
        let side = self.0.known(hub.as_str());
        side.map_or_else(Vec::new, |side| side.known.lock().peer.forget(Instant::now()))
    }
}
