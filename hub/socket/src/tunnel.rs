//! The tunnel to a hub that a session has left: calls that were running there when it moved go on through it.
//!
//! Invariants
//! - The peer's messages about such a call go to the hub that has it, as they came; that hub's messages reach the peer
//!   in order.
//! - A call that the spoke runs for the other hub occupies a slot of its instance here, until that hub says that it is
//!   over.
//! - A call is at most [`MOST_HUBS`] hubs away from its session, so that a session that moves round and round costs no
//!   more than one that has moved a few times. A tunnel does not know which of its calls are furthest away: all of them
//!   end. What a tunnel knows of calls is charged to the session's key.
//! - When the tunnel breaks, every call in it ends: the spoke is told to stop, and the peer's own calls fail. The other
//!   hub is told of every end that it did not cause itself: it may be alive, with callers that wait.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use alkhub_budget::{Budget, Exhausted, Held, Kept};
use alkhub_calls::{Full, Moves, OccupiedSlots, Outbox, PassedKind, PassedMessage, SessionMessage, TunnelId};
use alkhub_edge::error::unanswered;
use alkhub_protocol::frame::encode;
use alkhub_protocol::{CloseCode, Dialect, HubId, RequestId};
use bytes::Bytes;
use parking_lot::Mutex;

/// How many hubs may be between a session and a call that runs for it: each of them keeps what it must know of the
/// call, and passes on every message.
const MOST_HUBS: u32 = 8;

/// Why all calls of a tunnel end when the first of them would be further away than that.
const FAR: &str = "the session has gone on from one hub to the next too often while calls of it ran";

/// How much a hub keeps of a call besides its id, roughly, in bytes.
const CALL_BYTES: usize = 64;

/// Why calls end with a tunnel.
const BROKEN: &str = "the hub that the session has left is gone, and the call with it";

/// The tunnels to other hubs. Clones share one list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tunnels(Arc<Mutex<HashMap<TunnelId, Arc<Tunnel>>>>);

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

/// One of them, on the hub that has the session.
#[derive(Debug)]
pub(crate) struct Tunnel {
    id: TunnelId,
    back: Way,
    /// The number of hubs between this one and its calls that are furthest away.
    hubs: u32,
    /// The outbox of the session here.
    outbox: Outbox,
    running: Mutex<Running>,
}

/// The way from a tunnel to the hub at its other end.
pub(crate) struct Way(Box<dyn Fn(SessionMessage) -> Result<(), Full> + Send + Sync>);

/// A tunnel as its session holds it: dropping it tells the other hub that the session has ended.
#[derive(Debug)]
pub(crate) struct TunnelGuard {
    tunnels: Tunnels,
    tunnel: Arc<Tunnel>,
}

#[derive(Debug, Default)]
struct Running {
    /// Calls that the spoke runs for the other hub.
    legs: HashSet<String>,
    /// Calls that the peer has made there.
    calls: HashSet<String>,
    /// The slots for `legs`, once the spoke is registered here.
    slots: Option<OccupiedSlots>,
    /// The charge for the ids of what ran through it when the session arrived.
    held: Option<Held>,
    /// Nothing passes any more.
    closed: bool,
}

// === impl Tunnels ===

impl Tunnels {
    /// Opens this end of a tunnel, for a session of this hub.
    pub(crate) fn open(&self, parts: TunnelParts<'_>) -> TunnelGuard {
        let tunnel = Arc::new(Tunnel {
            id: parts.id.clone(),
            back: parts.back,
            hubs: parts.hubs,
            outbox: parts.outbox,
            running: Mutex::new(Running {
                legs: parts.legs.iter().cloned().collect(),
                calls: parts.calls.iter().cloned().collect(),
                slots: None,
                held: None,
                closed: false,
            }),
        });
        self.0.lock().insert(parts.id, tunnel.clone());
        TunnelGuard {
            tunnels: self.clone(),
            tunnel,
        }
    }

    /// The tunnel to a hub with this number.
    pub(crate) fn get(&self, hub: &HubId, number: u64) -> Option<Arc<Tunnel>> {
        let id = TunnelId {
            hub: hub.clone(),
            number,
        };
        self.0.lock().get(&id).cloned()
    }

    /// All tunnels to a hub.
    pub(crate) fn to(&self, hub: &HubId) -> Vec<Arc<Tunnel>> {
        let tunnels = self.0.lock();
        let to = tunnels.values().filter(|tunnel| tunnel.id.hub == *hub);
        to.cloned().collect()
    }

    /// How many calls run through all of them.
    pub(crate) fn running(&self) -> usize {
        let tunnels = self.0.lock();
        let running = tunnels.values().map(|tunnel| tunnel.running.lock().count_all());
        running.sum()
    }
}

// === impl Way ===

impl Way {
    /// The way to this hub.
    pub(crate) fn new(moves: &Moves, hub: &HubId) -> Self {
        let (moves, hub) = (moves.clone(), hub.clone());
        Self(Box::new(move |message| moves.say(&hub, message)))
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// Takes a message of the other hub for the peer.
    pub(crate) fn deliver(&self, passed: PassedMessage) {
        let call = (passed.kind == PassedKind::Call).then(|| passed.id.clone()).flatten();
        {
            let mut running = self.running.lock();
            if running.closed {
                // It was on its way when the tunnel closed, and its end has been told.
                return;
            }
            match (passed.kind, &passed.id) {
                (PassedKind::Call, Some(leg)) => {
                    running.legs.insert(leg.clone());
                    running.count();
                }
                (PassedKind::End | PassedKind::LastEnd, Some(call)) => {
                    running.calls.remove(call);
                }
                _ => {}
            }
        }
        self.pass(passed);
        // Whatever closed the tunnel meanwhile has ended the call before the spoke had it.
        if let Some(leg) = call
            && self.running.lock().closed
        {
            self.end_leg(&leg, BROKEN);
        }
    }

    /// A call that the spoke ran is over on the other hub.
    pub(crate) fn done(&self, leg: &str) {
        let mut running = self.running.lock();
        running.legs.remove(leg);
        running.count();
        drop(running);
        self.outbox.leg_ended(leg);
    }

    /// The other hub has closed the tunnel: nothing runs there any more.
    pub(crate) fn closed(&self) {
        // Not in the condition: the lock would be held while the session's queue is locked, and a session that leaves
        // locks the two in the opposite order.
        let ended = self.running.lock().close();
        if let Some(ended) = ended {
            self.end(ended, BROKEN);
        }
    }

    /// Breaks the tunnel: nothing passes any more, and the other hub may not know.
    pub(crate) fn breaks(&self) {
        self.breaks_for(BROKEN);
    }

    fn breaks_for(&self, reason: &str) {
        let ended = self.running.lock().close();
        if let Some(ended) = ended {
            self.leave();
            self.end(ended, reason);
        }
    }

    /// Tells the other hub that nothing comes from here any more.
    fn leave(&self) {
        let left = SessionMessage::Left { tunnel: self.id.number };
        if (self.back.0)(left).is_err() {
            tracing::warn!(hub.id = %self.id.hub, "too much waits for another hub");
        }
    }

    /// Ends what is left: usually nothing, if the other hub has closed the tunnel.
    fn end(&self, ended: Running, reason: &str) {
        ended.legs.iter().for_each(|leg| self.end_leg(leg, reason));
        let dialect = self.outbox.dialect();
        for call in ended.calls {
            let message = encode::call_error(dialect, &call, &unanswered(reason));
            self.pass(PassedMessage {
                kind: PassedKind::End,
                id: Some(call),
                message,
            });
        }
    }

    /// Tells the spoke to stop a call that nobody waits for.
    fn end_leg(&self, leg: &str, reason: &str) {
        let dialect = self.outbox.dialect();
        let kind = match dialect {
            Dialect::Payload => PassedKind::Last,
            Dialect::Id => PassedKind::Message,
        };
        let message = encode::call_aborted(dialect, leg, Some(reason));
        self.pass(PassedMessage {
            kind,
            id: None,
            message,
        });
        self.outbox.leg_ended(leg);
    }

    fn pass(&self, passed: PassedMessage) {
        if self.outbox.pass(passed) == Err(Full::Queue) {
            self.outbox.close(
                CloseCode::Slow,
                "what the session has left behind comes faster than it is read",
            );
        }
    }

    fn say(&self, message: SessionMessage) {
        if (self.back.0)(message).is_err() {
            tracing::warn!(hub.id = %self.id.hub, "what a spoke answers does not get to the hub that it has left");
            self.breaks();
        }
    }
}

// === impl TunnelGuard ===

impl TunnelGuard {
    /// Charges the ids of what runs through it to the budget of the session's key, until it is closed.
    ///
    /// # Errors
    /// There is no room for them.
    pub(crate) fn charge(&self, budget: &Budget) -> Result<(), Exhausted> {
        let bytes = {
            let running = self.tunnel.running.lock();
            let ids = running.legs.iter().chain(&running.calls);
            ids.map(|id| id.len() + CALL_BYTES).sum()
        };
        let held = budget.take(Kept::Moves, bytes)?;
        let mut running = self.tunnel.running.lock();
        if !running.closed {
            running.held = Some(held);
        }
        Ok(())
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
        self.tunnel.running.lock().legs.contains(id.as_str())
    }

    /// Whether the peer made this call there, and it is running.
    pub(crate) fn has_call(&self, id: &RequestId) -> bool {
        self.tunnel.running.lock().calls.contains(id.as_str())
    }

    /// The calls that the spoke runs for the other hub.
    pub(crate) fn legs(&self) -> Vec<String> {
        self.tunnel.running.lock().legs.iter().cloned().collect()
    }

    /// The calls that the peer made there and that are running.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.tunnel.running.lock().calls.iter().cloned().collect()
    }

    /// Whether the peer made calls there that are running.
    pub(crate) fn has_calls(&self) -> bool {
        !self.tunnel.running.lock().calls.is_empty()
    }

    /// Whether nothing passes any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.tunnel.running.lock().closed
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
        let mut running = self.tunnel.running.lock();
        if !running.closed {
            running.slots = Some(slots);
            running.count();
        }
    }

    /// Ends every call in it, as far as this hub is concerned; returns those that the peer made.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.tunnel.running.lock().calls)
            .into_iter()
            .collect()
    }
}

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        self.tunnels.0.lock().remove(&self.tunnel.id);
        let ended = self.tunnel.running.lock().close();
        if ended.is_some() {
            self.tunnel.leave();
        }
    }
}

// === impl Running ===

impl Running {
    /// Lets nothing pass from now on; returns what was running, unless it was closed already.
    fn close(&mut self) -> Option<Self> {
        let closed = Self {
            closed: true,
            ..Self::default()
        };
        let before = std::mem::replace(self, closed);
        (!before.closed).then_some(before)
    }

    /// Calls in both directions.
    fn count_all(&self) -> usize {
        self.legs.len() + self.calls.len()
    }

    fn count(&mut self) {
        let legs = u32::try_from(self.legs.len()).unwrap_or(u32::MAX);
        if let Some(slots) = &mut self.slots {
            slots.occupy(legs);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Wake, Waker};

    use alkhub_budget::Budgets;
    use alkhub_calls::{Limits, Outgoing, OutgoingItem};
    use alkhub_config::BudgetConfig;
    use prometheus::Registry;

    use super::*;

    /// The messages to the other hub.
    type Sent = Arc<Mutex<Vec<SessionMessage>>>;

    /// A tunnel with a call in each direction, whose way back is full or not.
    fn tunnel(full: bool) -> (Tunnels, TunnelGuard, Sent, Outgoing) {
        let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
        let limits = Limits {
            items: 100,
            bytes: 100_000,
        };
        let (outbox, outgoing) = alkhub_calls::outbox("s", limits, &budgets.key(&Arc::from("k")));
        let sent = Sent::default();
        let way = Arc::clone(&sent);
        let back = Way(Box::new(move |message| {
            let small = matches!(message, SessionMessage::Left { .. });
            if full && !small {
                return Err(Full::Queue);
            }
            way.lock().push(message);
            Ok(())
        }));
        let tunnels = Tunnels::default();
        let guard = tunnels.open(TunnelParts {
            id: TunnelId {
                hub: "old".parse().expect("an id"),
                number: 7,
            },
            back,
            outbox,
            legs: &["leg".to_owned()],
            calls: &["call".to_owned()],
            hubs: 1,
        });
        (tunnels, guard, sent, outgoing)
    }

    fn left(sent: &Sent) -> usize {
        let sent = sent.lock();
        sent.iter()
            .filter(|message| matches!(message, SessionMessage::Left { tunnel: 7 }))
            .count()
    }

    /// The messages to the peer.
    fn said(outgoing: &mut Outgoing) -> String {
        let text = |item| match item {
            OutgoingItem::Message(message) | OutgoingItem::Last(message) => String::from_utf8(message.into()),
            OutgoingItem::Close { reason, .. } => Ok(reason),
        };
        std::iter::from_fn(|| outgoing.try_next())
            .map(|item| text(item).expect("text"))
            .collect()
    }

    #[test]
    fn a_tunnel_that_breaks_here_ends_its_calls_on_both_hubs_and_tells_the_other_one_once() {
        let (tunnels, guard, sent, mut outgoing) = tunnel(true);
        assert_eq!(tunnels.running(), 2);

        guard.hand_on(&Bytes::from_static(b"an answer"), 9);

        assert_eq!(left(&sent), 1, "{sent:?}");
        assert!(guard.is_closed());
        assert_eq!(tunnels.running(), 0);
        let said = said(&mut outgoing);
        assert!(said.contains("\"leg\"") && said.contains("\"call\""), "{said}");
        drop(guard);
        assert_eq!(left(&sent), 1, "it knows");
    }

    /// Checks, when the session has a message, whether a tunnel's lock is free.
    struct Looks {
        tunnel: Arc<Tunnel>,
        /// The results.
        free: Mutex<Vec<bool>>,
    }

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            let is_free = self.tunnel.running.try_lock().is_some();
            self.free.lock().push(is_free);
        }
    }

    /// A session that leaves asks its tunnels while its queue is locked, so nobody may put something into the queue
    /// while holding a tunnel.
    #[test]
    fn a_tunnel_is_not_held_while_something_is_said_to_the_peer() {
        for end in [Tunnel::closed, Tunnel::breaks] {
            let (tunnels, _guard, _sent, mut outgoing) = tunnel(false);
            let tunnel = tunnels.get(&"old".parse().expect("an id"), 7).expect("open");
            let looks = Arc::new(Looks {
                tunnel: tunnel.clone(),
                free: Mutex::default(),
            });
            let waker = Waker::from(looks.clone());
            assert!(outgoing.poll_next(&mut Context::from_waker(&waker)).is_pending());

            end(&tunnel);

            assert_eq!(*looks.free.lock(), [true]);
        }
    }

    #[test]
    fn what_comes_through_a_closed_tunnel_is_dropped() {
        let (tunnels, _guard, _sent, mut outgoing) = tunnel(false);
        let tunnel = tunnels.get(&"old".parse().expect("an id"), 7).expect("open");
        tunnel.closed();
        let before = said(&mut outgoing);

        tunnel.deliver(PassedMessage {
            kind: PassedKind::Call,
            id: Some("late".to_owned()),
            message: Bytes::from_static(b"a call"),
        });

        assert!(before.contains("\"leg\""), "{before}");
        assert_eq!(said(&mut outgoing), "", "its end has been told");
    }

    #[test]
    fn a_key_pays_for_a_tunnel_until_it_is_closed() {
        let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
        let budget = budgets.key(&Arc::from("k"));
        let (tunnels, guard, _sent, _outgoing) = tunnel(false);
        let tunnel = tunnels.get(&"old".parse().expect("an id"), 7).expect("open");

        guard.charge(&budget).expect("room");
        let before = budget.used();
        tunnel.closed();
        let after = budget.used();
        guard.charge(&budget).expect("room");

        assert_eq!(
            before,
            "leg".len() + "call".len() + 2 * CALL_BYTES,
            "the two ids and what is known of them"
        );
        assert_eq!(after, 0, "the session goes on, with nothing in the tunnel");
        assert_eq!(budget.used(), 0, "it was closed before it was charged");
    }

    #[test]
    fn the_other_hub_is_told_of_every_end_but_its_own() {
        let (tunnels, _guard, sent, _outgoing) = tunnel(false);
        tunnels.to(&"old".parse().expect("an id"))[0].breaks();
        assert_eq!(left(&sent), 1, "nothing passes between the two any more");

        let (_, guard, sent, _outgoing) = tunnel(false);
        drop(guard);
        assert_eq!(left(&sent), 1, "the session has ended");

        let (tunnels, guard, sent, mut outgoing) = tunnel(false);
        tunnels.get(&"old".parse().expect("an id"), 7).expect("open").closed();
        drop(guard);
        assert_eq!(left(&sent), 0, "it has said so itself");
        assert!(said(&mut outgoing).contains("\"leg\""));
    }
}
