//! A WebSocket among what is open: what others may ask of it.
//!
//! Invariants
//! - The entry of a socket is removed when its [`SocketGuard`] is dropped, and so is its place among those whose peers
//!   were told to go.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use alkhub_calls::{Caller, Outbox};
use alkhub_edge::limits::Slot;
use alkhub_edge::metrics::Counted;
use alkhub_edge::open::{Closeable, Closing, DRAINING, Entered, Leaver};
use alkhub_edge::{Key, KeyFault, Open};
use alkhub_protocol::CloseCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::mobility::{Departure, Mobility};
use crate::signs::Signs;
use crate::times::SocketTimes;

const PING: u8 = 1;
const KILL: u8 = 2;
const DRAIN: u8 = 4;
const LOOK: u8 = 8;
const LEAVE: u8 = 16;
const MOVE: u8 = 32;
const HUBS: u8 = 64;

/// One open WebSocket, as others see it.
#[derive(Debug)]
pub(crate) struct SocketEntry {
    clock: Arc<Clock>,
    /// The outbox of the session that it serves.
    outbox: Mutex<Outbox>,
    signs: Signs,
    times: SocketTimes,
    departure: Departure,
    /// Whether its peer reaches pods by their addresses.
    reaches_pods: bool,
}

/// A socket's place among what is open.
#[derive(Debug)]
pub(crate) struct SocketGuard {
    pub(crate) socket: Arc<SocketEntry>,
    _entered: Entered,
}

// === impl SocketEntry ===

impl SocketEntry {
    /// A socket that serves the session with this outbox; `leaving` counts the hub's sockets whose peers are to go.
    pub(crate) fn new(clock: &Arc<Clock>, outbox: Outbox, leaving: &Arc<AtomicUsize>) -> Self {
        Self {
            outbox: Mutex::new(outbox),
            signs: Signs::default(),
            times: SocketTimes::new(clock),
            departure: Departure::new(clock, leaving),
            reaches_pods: false,
            clock: clock.clone(),
        }
    }

    /// Sets whether the peer reaches pods by their addresses.
    pub(crate) fn reaching_pods(self, reaches_pods: bool) -> Self {
        Self { reaches_pods, ..self }
    }

    /// Registers the connection's task to be woken for a ping or an end.
    pub(crate) fn wake_by(&self, waker: &std::task::Waker) {
        self.signs.wake_by(waker);
    }

    /// The socket serves the session with this outbox from now on; false if the end of the socket is decided, which
    /// would be lost.
    pub(crate) fn serves(&self, outbox: Outbox) -> bool {
        let mut serves = self.outbox.lock();
        if serves.is_closed() {
            return false;
        }
        let before = std::mem::replace(&mut *serves, outbox);
        drop(serves);
        drop(before);
        true
    }

    /// Whether a ping is due; asking clears it.
    pub(crate) fn take_ping(&self) -> bool {
        self.signs.take(PING)
    }

    /// Whether the key may have changed; asking clears it.
    pub(crate) fn take_look(&self) -> bool {
        self.signs.take(LOOK)
    }

    /// Whether the peer is to be asked to move now, and where to; asking clears it.
    pub(crate) fn take_move(&self) -> Option<Option<String>> {
        self.signs.take(MOVE).then(|| self.departure.take_target())
    }

    /// Whether the number of hubs has changed; asking clears it.
    pub(crate) fn take_hubs(&self) -> bool {
        self.signs.take(HUBS)
    }

    /// Whether a session may wait for its peer when this connection is lost; on a draining hub, only if the peer is on
    /// its way to another hub.
    pub(crate) fn may_wait(&self) -> bool {
        !self.draining() || self.is_moving()
    }

    /// Whether the peer was asked to move and still has time for it.
    pub(crate) fn is_moving(&self) -> bool {
        self.departure.is_moving()
    }

    /// Notes when the session that it serves came from another hub, if that hub had asked for it.
    pub(crate) fn has_moved(&self, at: Option<Instant>) {
        self.departure.has_moved(at);
    }

    /// Whether the connection must end without another message.
    pub(crate) fn killed(&self) -> bool {
        self.signs.has(KILL)
    }

    /// Whether the hub drains.
    pub(crate) fn draining(&self) -> bool {
        self.signs.has(DRAIN)
    }

    /// Notes how its peer could get to another hub. A peer that is to go stays if it turns out to have a session.
    pub(crate) fn set_mobility(&self, mobility: Mobility) {
        self.departure.set_mobility(mobility);
        if self.is_leaving() && !self.departure.is_free() {
            self.keep();
        }
    }

    /// Whether its peer is to go to another hub.
    pub(crate) fn is_leaving(&self) -> bool {
        self.signs.has(LEAVE)
    }

    /// Lets its peer stay after all.
    fn keep(&self) {
        if self.departure.keep() {
            self.signs.lower(LEAVE);
            self.outbox.lock().set_leaving(false);
        }
    }
}

impl Closeable for SocketEntry {
    fn recheck(&self, _: &Arc<Caller>) {
        self.signs.raise(LOOK);
    }

    fn drain(&self) {
        self.signs.raise(DRAIN);
    }

    fn close(&self, why: Closing) {
        let (code, reason) = match why {
            Closing::Key(fault @ (KeyFault::Revoked | KeyFault::Expired)) => (CloseCode::Revoked, fault.reason()),
            Closing::Key(fault @ KeyFault::Suspended) => (CloseCode::Suspended, fault.reason()),
            Closing::Drain => (CloseCode::GoingAway, DRAINING),
        };
        self.outbox.lock().close(code, reason);
        // A task that waits for its socket to accept more would not notice otherwise.
        self.signs.wake();
    }

    fn kill(&self) {
        self.signs.raise(KILL);
    }

    fn leaver(&self) -> Option<Leaver> {
        let migrates = self.departure.is(Mobility::Moves);
        // The first message of a new peer may be on its way, and the peer may have a session.
        let is_free =
            self.departure.is(Mobility::Plain) || self.departure.is(Mobility::Silent) && self.times.is_settled();
        let goes = self.is_leaving() || self.is_moving();
        let outbox = self.outbox.lock();
        let may_go = (is_free || migrates) && !goes && !outbox.is_closed();
        may_go.then(|| Leaver {
            migrates,
            in_flight: outbox.in_flight(),
            since: self.times.opened_at(),
            moved: self.departure.moved(),
            session: outbox.session().clone(),
        })
    }

    fn let_go(&self) {
        if self.departure.let_go() {
            self.outbox.lock().set_leaving(true);
            self.signs.raise(LEAVE);
        }
    }

    fn let_stay(&self) {
        // A peer that was asked to move is on its way, or stays where it is.
        if self.is_leaving() {
            self.keep();
        }
    }

    fn ask_to_move(&self, target: Option<&str>) -> bool {
        if !self.departure.is(Mobility::Moves) {
            return false;
        }
        let asked = self.departure.ask(target.filter(|_| self.reaches_pods));
        if asked == Some(true) {
            self.signs.raise(MOVE);
        }
        asked.is_some()
    }

    fn is_unasked(&self) -> bool {
        self.departure.is(Mobility::Moves) && !self.departure.was_asked()
    }

    fn is_moving(&self) -> bool {
        Self::is_moving(self)
    }

    fn is_midway(&self) -> bool {
        self.times.is_midway()
    }

    fn hubs_changed(&self) {
        self.signs.raise(HUBS);
    }

    fn tick(&self, place: usize) {
        if self.departure.is_overdue() {
            self.keep();
        }
        if self.is_leaving() {
            // Its last call may have ended without a message to it.
            self.signs.wake();
        }
        if self.times.is_over() {
            return self.signs.raise(KILL);
        }
        let outbox = self.outbox.lock();
        if self.times.is_message_late() {
            outbox.close(CloseCode::Policy, "a message took longer than `server.message-timeout`");
        }
        let is_closed = outbox.is_closed();
        drop(outbox);
        if is_closed && self.times.begin_closing() {
            self.signs.wake();
        }
        if self.clock.is_turn_of(place) {
            self.signs.raise(PING);
        }
    }
}

// === impl SocketGuard ===

impl SocketGuard {
    /// Enters a socket that `key` has opened.
    pub(crate) fn new(open: &Open, key: Arc<Key>, socket: SocketEntry, counted: (Slot, Counted)) -> Self {
        let socket = Arc::new(socket);
        Self {
            _entered: open.enter(key, socket.clone(), counted),
            socket,
        }
    }

    /// Notes that the peer has sent something.
    pub(crate) fn heard(&self) {
        self.socket.times.hear();
    }

    /// Notes that a close frame is on its way: from now on the time to finish closing runs.
    pub(crate) fn closing(&self) {
        self.socket.times.begin_closing();
    }

    /// Notes whether a message has begun and not ended.
    pub(crate) fn reading(&self, within: bool) {
        self.socket.times.reading(within);
    }

    /// Notes whether the peer currently accepts nothing, and whether it accepted something.
    pub(crate) fn writing(&self, waits: bool, progressed: bool) {
        self.socket.times.writing(waits, progressed);
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.socket.departure.over();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use alkhub_budget::Budgets;
    use alkhub_calls::{Limits, Outgoing};
    use alkhub_config::{BudgetConfig, ServerConfig};
    use prometheus::Registry;

    use super::*;

    /// A socket whose peer moves when asked to, the number of the hub's sockets that are to go, and the end of its
    /// queue.
    fn socket() -> (Arc<Clock>, SocketEntry, Arc<AtomicUsize>, Outgoing) {
        let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
        let limits = Limits { items: 8, bytes: 1_024 };
        let (outbox, outgoing) = alkhub_calls::outbox("s", limits, &budgets.key(&"k".into()));
        let (clock, leaving) = (Arc::new(Clock::new(&ServerConfig::default())), Arc::default());
        let socket = SocketEntry::new(&clock, outbox, &leaving);
        socket.set_mobility(Mobility::Moves);
        (clock, socket, leaving, outgoing)
    }

    #[test]
    fn who_is_asked_to_move_is_to_go_until_its_time_is_over() {
        let (clock, socket, leaving, _outgoing) = socket();
        let to_go = || leaving.load(Ordering::Acquire);

        assert!(socket.ask_to_move(None) && socket.ask_to_move(None));
        assert_eq!((to_go(), socket.leaver()), (1, None));
        clock.pass(clock.moving);
        socket.tick(0);
        assert_eq!((to_go(), socket.is_moving()), (1, true));
        clock.pass(1);
        socket.tick(0);

        assert_eq!((to_go(), socket.is_moving()), (0, false));
        assert!(socket.leaver().is_some_and(|leaver| leaver.migrates));
    }

    #[test]
    fn a_place_is_named_only_to_who_reaches_it() {
        for (reaches_pods, named) in [(true, Some("http://10.0.0.7:7420".to_owned())), (false, None)] {
            let (_, socket, _, _outgoing) = socket();
            let socket = socket.reaching_pods(reaches_pods);

            assert!(socket.ask_to_move(Some("http://10.0.0.7:7420")));

            assert_eq!(socket.take_move(), Some(named));
        }
    }

    #[test]
    fn who_has_moved_or_ended_is_not_to_go_any_more() {
        let (_, socket, leaving, _outgoing) = socket();
        assert!(socket.ask_to_move(None));

        socket.departure.over();

        assert_eq!(leaving.load(Ordering::Acquire), 0);
        assert!(!socket.ask_to_move(None));
        assert_eq!(leaving.load(Ordering::Acquire), 0);
    }

    #[test]
    fn who_was_let_go_stays_if_told_in_time_and_who_was_asked_to_move_still_is() {
        let (_, plain, leaving, _outgoing) = socket();
        plain.set_mobility(Mobility::Plain);
        let (_, moving, _, _its_outgoing) = socket();
        plain.let_go();
        assert!(plain.is_leaving() && leaving.load(Ordering::Acquire) == 1);
        assert!(moving.ask_to_move(None));

        plain.let_stay();
        moving.let_stay();

        assert!(!plain.is_leaving() && leaving.load(Ordering::Acquire) == 0);
        assert!(plain.leaver().is_some(), "it may be let go again");
        assert!(moving.is_moving());
    }

    #[test]
    fn who_has_said_nothing_may_be_let_go_after_a_while_and_stays_when_it_has_a_session_after_all() {
        let (clock, socket, leaving, _outgoing) = socket();
        let to_go = || leaving.load(Ordering::Acquire);
        socket.set_mobility(Mobility::Silent);
        assert_eq!(socket.leaver(), None, "its first word is on its way");
        clock.pass(clock.first_word + 1);
        assert!(socket.leaver().is_some_and(|leaver| !leaver.migrates));

        socket.let_go();
        assert!(socket.is_leaving() && to_go() == 1);
        socket.set_mobility(Mobility::Session);

        assert!(!socket.is_leaving() && to_go() == 0);
    }
}
