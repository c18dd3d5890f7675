//! The graceful end of a hub: one mechanism for SIGTERM, scale-down and roll-out. Its steps:
//!
//! 1. The hub is not ready any more and says so to the other hubs, whose calls then go elsewhere if any other spoke
//!    offers the operation. `drain-delay` gives load balancers time to notice.
//! 2. No new connections are accepted. Peers that can move are asked to move to another hub, a few at a time; other
//!    clients are let go once none of their calls is under way.
//! 3. Plain spokes are let go, a few at a time, each once none of its calls is under way.
//! 4. Peers move and running calls finish, for up to `drain-timeout`.
//! 5. Calls that still run end with UNAVAILABLE, while every caller can still be reached.
//! 6. Sockets close with 1001 and a reason, and everything ends.
//!
//! Invariants
//! - Nothing that somebody waits for is cut off before its time is over, whichever hub it was entered on: calls of this
//!   hub, calls of others that run on its peers, sessions on their way, sessions whose peers may come back to another
//!   hub, messages that have begun.
//! - A peer that cannot leave does not hold up the end: peers that do not move have [`STALLED`], messages that do not
//!   end have [`FINISHING`].

use std::sync::Arc;
use std::time::Duration;

use alkhub_config::drain::{CLOSING, ENDING, KILLING, STORING};
use alkhub_edge::error::unanswered;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::open::{Closeable, DRAINING};
use alkhub_socket::Passing;
use tokio::time::{Instant, timeout};

use crate::hub::Hub;

/// Time to announce the drain to the other hubs, while `drain-delay` runs.
const ANNOUNCING: Duration = Duration::from_secs(1);

/// How many peers are asked to move, or let go, in each [`LOOK`], unless there are too many for the time: 200 a second.
const MOVES: usize = 4;

/// All peers are asked within this part of the time.
const MOVING_PART: u32 = 3;

/// How often to check whether calls still run.
const LOOK: Duration = Duration::from_millis(20);

/// How often to ask peers to move that have come since, or that no hub would have taken before.
const ASKING: Duration = Duration::from_secs(1);

/// How long to wait for the remaining peers after the last one has moved. A peer that can reach only this hub, since it
/// was given a single address, moves nowhere; a peer that finds another hub has moved within a second or two.
const STALLED: Duration = Duration::from_secs(5);

/// Time for begun messages to end, and for queued data to be written, once no call runs.
const FINISHING: Duration = Duration::from_secs(5);

/// Plain peers, which come back wherever their load balancer sends them.
struct PlainPeers {
    left: Vec<Arc<dyn Closeable>>,
    /// How many are let go in each [`LOOK`].
    at_once: usize,
}

/// The progress of peers that were asked to move.
struct Moving {
    left: usize,
    since: Instant,
}

// === impl Hub ===

impl Hub {
    /// The graceful end, as the module describes it. Calling it again waits for the same end.
    pub async fn shutdown(&self) {
        self.ended.get_or_init(|| self.drain()).await;
    }

    /// Ends at once: nothing is drained, sockets are dropped without a close. Returns once every task is gone.
    pub async fn kill(&self) {
        self.ended.get_or_init(|| self.end()).await;
    }

    async fn drain(&self) {
        let app = &self.app;
        let (server, scope, open) = (app.edge.server(), app.edge.scope(), app.edge.open());
        app.readiness.draining();
        tracing::info!(hub.id = %app.edge.hub_id(), calls = app.calls.in_flight(), "the hub drains");
        let begun = Instant::now();
        tokio::join!(self.announce(), tokio::time::sleep(server.drain_delay));
        // Whoever runs the hub does not grant more time because of this.
        let late = begun.elapsed().saturating_sub(server.drain_delay);
        scope.drain.cancel();
        let time = server.drain_timeout.saturating_sub(late);
        let asking = Instant::now();
        self.ask_to_move(time).await;
        open.drain();
        if !self.finish(time.saturating_sub(asking.elapsed())).await {
            let Passing { sessions, calls } = app.sockets.passing();
            let own = app.calls.in_flight();
            tracing::warn!(
                calls = own + calls,
                sessions = sessions + open.count(ConnectionKind::Reconnecting),
                "calls still run, or sessions wait for their peers, at the end of `server.drain-timeout`"
            );
        }
        // Done while every caller can still be reached.
        app.calls.end_all(&unanswered(DRAINING), DRAINING);
        scope.close.cancel();
        open.close();
        let sockets = || open.count(ConnectionKind::Websocket);
        if !wait(CLOSING, || sockets() == 0 && open.count(ConnectionKind::Http) == 0).await {
            tracing::debug!(sockets = sockets(), "sockets did not answer their close");
            // Their spokes leave the directory while the link to it is still up.
            open.kill();
            wait(KILLING, || sockets() == 0).await;
        }
        self.end().await;
    }

    /// Waits until nothing is under way that somebody waits for; false if that does not happen in time.
    async fn finish(&self, time: Duration) -> bool {
        let (app, begun) = (&self.app, Instant::now());
        let open = app.edge.open();
        let (mut moving, mut asking) = (Moving::none(begun), begun);
        let mut plain = self.plain_peers(time);
        loop {
            plain.let_some_go();
            let now = Instant::now();
            if now >= asking {
                self.ask_the_others();
                asking = now + ASKING;
            }
            let moves = moving.goes_on(open.moving(), now);
            // A session passes from one of these to the next, and back if it is not taken; it is in the next one first.
            let passes = !app.sockets.passing().is_none() || moving.goes_on(open.moving(), now);
            let finishes = open.midway() > 0 && now < begun + FINISHING;
            let waits = open.count(ConnectionKind::Reconnecting) > 0 && app.calls.moves().has_refuge();
            let is_quiet = app.calls.in_flight() == 0 && plain.left.is_empty();
            if is_quiet && !moves && !passes && !waits && !finishes {
                return true;
            }
            if now >= begun + time {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks the peers that can move to resume their sessions on another hub, if any hub stays: at a rate that leaves
    /// the others time to take them, and all of them within a part of the available time.
    async fn ask_to_move(&self, time: Duration) {
        let app = &self.app;
        if !app.calls.moves().has_refuge() {
            return;
        }
        let sockets = app.edge.open().of(ConnectionKind::Websocket);
        let at_once = in_each_look(sockets.len(), time);
        let mut asked = 0_usize;
        for sockets in sockets.chunks(at_once) {
            asked += sockets.iter().filter(|socket| self.ask(&***socket)).count();
            if sockets.len() == at_once {
                tokio::time::sleep(LOOK).await;
            }
        }
        tracing::info!(peers = asked, "peers are asked to move to other hubs");
    }

    /// The plain peers, to be let go if there is anywhere else to go. A spoke that stayed would be called until the
    /// end, and the calls running on it by then would end without anybody knowing what became of them.
    fn plain_peers(&self, time: Duration) -> PlainPeers {
        let sockets = match self.app.calls.moves().has_refuge() {
            true => self.app.edge.open().of(ConnectionKind::Websocket),
            false => Vec::new(),
        };
        let is_plain = |socket: &Arc<dyn Closeable>| socket.leaver().is_some_and(|leaver| !leaver.migrates);
        let left: Vec<_> = sockets.into_iter().filter(is_plain).collect();
        let at_once = in_each_look(left.len(), time);
        PlainPeers { left, at_once }
    }

    /// Asks the peers that were never asked: they have come since, or there was nowhere to go.
    fn ask_the_others(&self) {
        if self.app.calls.moves().has_refuge() {
            let sockets = self.app.edge.open().of(ConnectionKind::Websocket);
            for socket in sockets.iter().filter(|socket| socket.is_unasked()) {
                self.ask(&**socket);
            }
        }
    }

    /// Asks a peer to move, to the hub that should have it if that is known: the hubs are looked at until everything
    /// ends.
    fn ask(&self, socket: &dyn Closeable) -> bool {
        let leaver = socket.leaver().filter(|leaver| leaver.migrates);
        let refuge = leaver.and_then(|leaver| self.app.sockets.refuge(&leaver.session));
        socket.ask_to_move(refuge.as_deref())
    }

    /// Announces to the other hubs that this one is going away, before it does anything else about that.
    async fn announce(&self) {
        let announced = self.app.cluster.announce_now(|| self.app.lease());
        match timeout(ANNOUNCING, announced).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "it could not be announced to the other hubs that this one drains")
            }
            Err(_) => tracing::warn!("it was not announced in time to the other hubs that this one drains"),
        }
    }

    async fn end(&self) {
        let scope = self.app.edge.scope();
        scope.drain.cancel();
        scope.close.cancel();
        scope.stop.cancel();
        scope.tasks.close();
        if timeout(ENDING, scope.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = scope.tasks.len(), "tasks did not end in time");
        }
        if timeout(STORING, self.app.store.close()).await.is_err() {
            tracing::warn!("Postgres did not take the last writes in time");
        }
        tracing::info!(hub.id = %self.app.edge.hub_id(), "the hub has ended");
    }
}

// === impl PlainPeers ===

impl PlainPeers {
    fn let_some_go(&mut self) {
        let stay = self.left.len().saturating_sub(self.at_once);
        self.left.drain(stay..).for_each(|peer| peer.let_go());
    }
}

// === impl Moving ===

impl Moving {
    fn none(now: Instant) -> Self {
        Self { left: 0, since: now }
    }

    /// Whether to keep waiting, given that `left` peers have not moved yet.
    fn goes_on(&mut self, left: usize, now: Instant) -> bool {
        if left != self.left {
            *self = Self { left, since: now };
        }
        left > 0 && now < self.since + STALLED
    }
}

/// How many of `peers` peers go in each [`LOOK`], so that all have gone within a part of the time.
fn in_each_look(peers: usize, time: Duration) -> usize {
    let rounds = (time / MOVING_PART).as_millis() / LOOK.as_millis();
    let rounds = usize::try_from(rounds).unwrap_or(usize::MAX).max(1);
    peers.div_ceil(rounds).max(MOVES)
}

/// Waits until `holds` returns true; false if that does not happen in time.
async fn wait(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_awaited_while_others_move_and_not_for_long_when_none_does() {
        let begun = Instant::now();
        let mut moving = Moving::none(begun);
        let at = |seconds| begun + Duration::from_secs(seconds);

        assert!(!moving.goes_on(0, begun));
        assert!(moving.goes_on(3, at(1)) && moving.goes_on(3, at(5)));
        assert!(moving.goes_on(2, at(5)) && moving.goes_on(2, at(9)));
        assert!(!moving.goes_on(2, at(10)), "these reach no other hub");
        assert!(!moving.goes_on(0, at(11)));
    }
}
