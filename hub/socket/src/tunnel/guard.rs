//! A tunnel as its session holds it. Dropping it tells the other hub that the session has ended. A call is at most
//! [`MOST_HUBS`] hubs away from its session, so that a session that moves round and round costs no more than one that
//! has moved a few times; a tunnel does not know which of its calls are furthest away, so all of them end.

use std::sync::Arc;

use alkhub_budget::{Budget, Exhausted};
use alkhub_calls::{OccupiedSlots, Outbox, SessionMessage, TunnelId};
use alkhub_protocol::RequestId;
use bytes::Bytes;
use parking_lot::Mutex;

use super::running::RunningCalls;
use super::tunnels::Tunnels;
use super::{Tunnel, Way};

/// How many hubs may be between a session and a call that runs for it: each of them keeps what it must know of the
/// call, and passes on every message.
const MOST_HUBS: u32 = 8;

/// Why all calls of a tunnel end when the first of them would be further away than that.
const FAR: &str = "the session has gone on from one hub to the next too often while calls of it ran";

/// The arguments with which a tunnel is opened.
pub(crate) struct TunnelParts<'a> {
    pub(crate) id: TunnelId,
    /// The way to the hub that the session has left.
    pub(crate) back: Way,
    /// The outbox of the session here.
    pub(crate) outbox: Outbox,
    /// Calls that the spoke runs for the other hub.
    pub(crate) legs: &'a [String],
    /// Calls that the peer has made there.
    pub(crate) calls: &'a [String],
    /// The number of hubs between this one and the calls that are furthest away.
    pub(crate) hubs: u32,
}

/// A tunnel as its session holds it: dropping it tells the other hub that the session has ended.
#[derive(Debug)]
pub(crate) struct TunnelGuard {
    tunnels: Tunnels,
    tunnel: Arc<Tunnel>,
}

// === impl TunnelGuard ===

impl TunnelGuard {
    /// Opens this end of a tunnel, for a session of the hub whose tunnels these are.
    pub(crate) fn open(tunnels: &Tunnels, parts: TunnelParts<'_>) -> Self {
        let tunnel = Arc::new(Tunnel {
            id: parts.id,
            back: parts.back,
            hubs: parts.hubs,
            outbox: parts.outbox,
            running: Mutex::new(RunningCalls::new(parts.legs, parts.calls)),
        });
        tunnels.insert(&tunnel);
        Self {
            tunnels: tunnels.clone(),
            tunnel,
        }
    }

    /// Charges what is known of the calls in it to the budget of the session's key: of those that run now, and of those
    /// that will, each until it ends or the tunnel is closed.
    ///
    /// # Errors
    /// There is no room for those that run now.
    pub(crate) fn charge(&self, budget: &Budget) -> Result<(), Exhausted> {
        self.tunnel.running.lock().charge(budget)
    }

    /// The number of hubs between this one and its calls that are furthest away.
    pub(crate) fn hubs(&self) -> u32 {
        self.tunnel.hubs
    }

    /// Ends what runs through it, if some of it would be too far away once the session moved to one more hub.
    pub(crate) fn end_far(&self) {
        if self.tunnel.hubs >= MOST_HUBS {
            self.tunnel.breaks_for(FAR);
        }
    }

    /// Whether the spoke runs this call for the other hub.
    pub(crate) fn has_leg(&self, id: &RequestId) -> bool {
        self.tunnel.running.lock().has_leg(id.as_str())
    }

    /// Whether the peer made this call there, and it is running.
    pub(crate) fn has_call(&self, id: &RequestId) -> bool {
        self.tunnel.running.lock().has_call(id.as_str())
    }

    /// The calls that the spoke runs for the other hub.
    pub(crate) fn legs(&self) -> Vec<String> {
        self.tunnel.running.lock().legs()
    }

    /// The calls that the peer made there and that are running.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.tunnel.running.lock().calls()
    }

    /// Whether the peer made calls there that are running.
    pub(crate) fn has_calls(&self) -> bool {
        self.tunnel.running.lock().has_calls()
    }

    /// Whether nothing passes any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.tunnel.running.lock().is_closed()
    }

    /// Passes on a message of the peer about a call there, of `size` bytes, of which only the beginning may be left.
    pub(crate) fn hand_on(&self, message: &Bytes, size: usize) {
        self.tunnel.say(SessionMessage::FromPeer {
            tunnel: self.tunnel.id.number,
            size,
            message: message.clone(),
        });
    }

    /// The spoke is registered here: its calls occupy slots of this instance.
    pub(crate) fn settle(&self, slots: OccupiedSlots) {
        self.tunnel.running.lock().settle(slots);
    }

    /// Ends every call in it, as far as this hub is concerned; returns those that the peer made.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        self.tunnel.running.lock().take_calls()
    }
}

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        self.tunnels.remove(&self.tunnel);
        let ended = self.tunnel.running.lock().close();
        if ended.is_some() {
            self.tunnel.leave();
        }
    }
}
