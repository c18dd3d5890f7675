//! The graceful end: one mechanism for SIGTERM, scale-down and roll-out.
//!
//! Not ready, which is announced to the other hubs: their calls go elsewhere wherever there is anybody else →
//! `drain-delay`, so that load balancers notice → no new connections, peers that know how are asked to move to another hub, a
//! few at a time, and the other clients without a call under way are let go → plain spokes are let go, a few at a time, each
//! when none of its calls is under way → peers move and running calls finish, up to `drain-timeout` → those that still run end with UNAVAILABLE, while every caller can be
//! reached → sockets close with 1001 and a reason → everything ends.
//!
//! Invariants
//! - Nothing that somebody waits for is cut off before its time is over, whichever hub it was entered on: calls of this hub, calls
//!   of others that run on its peers, sessions on their way, sessions whose peers may come back to another hub, messages that
//!   have begun.
//! - Nobody holds up the end who cannot leave: peers that do not move have [`STALLED`], messages that do not end [`FINISHING`].

use std::sync::Arc;
use std::time::Duration;

use alkhub_config::drain::{CLOSING, ENDING, KILLING, STORING};
use alkhub_edge::error::unanswered;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::open::{Closeable, DRAINING};
use alkhub_socket::Passing;
use tokio::time::{Instant, timeout};

use crate::hub::Hub;

/// Time to announce it to the other hubs, while `drain-delay` runs.
const ANNOUNCING: Duration = Duration::from_secs(1);

/// Peers that are asked to move, or let go, in each [`LOOK`], unless there are too many for the time: 200 a second.
const MOVES: usize = 4;

/// In this part of the time all are asked.
const MOVING_PART: u32 = 3;

/// How often it is looked whether calls still run.
const LOOK: Duration = Duration::from_millis(20);

/// How often the peers are asked to move that have come since, or that nobody would have had before.
const ASKING: Duration = Duration::from_secs(1);

/// So long after the last one has moved the others are awaited: whoever reaches this hub alone, since it was told one address, moves
/// nowhere. A peer that finds another hub has moved in a second or two.
const STALLED: Duration = Duration::from_secs(5);

/// Time for messages that have begun to end, and for what waits to be written, once no call runs.
const FINISHING: Duration = Duration::from_secs(5);

/// Plain peers, who come back wherever their load balancer sends them.
struct PlainPeers {
    left: Vec<Arc<dyn Closeable>>,
    /// Let go in each [`LOOK`].
    at_once: usize,
}

/// How peers move that were asked to.
struct Moving {
    left: usize,
    since: Instant,
}

// === impl Hub ===

impl Hub {
    /// The graceful end: not ready, `drain-delay`, stop accepting, finish calls up to `drain-timeout`, close sockets
    /// with 1001, end every task. Calling it again waits for the same end.
    pub async fn shutdown(&self) {
        self.ended.get_or_init(|| self.drain()).await;
    }

    /// Ends at once: nothing is drained, sockets are dropped without a close. Returns when every task is gone.
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
        // Whoever runs the hub gives it no longer for this.
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
        // While every caller can still be reached.
        app.calls.end_all(&unanswered(DRAINING), DRAINING);
        scope.close.cancel();
        open.close();
        let sockets = || open.count(ConnectionKind::Websocket);
        if !wait(CLOSING, || sockets() == 0 && open.count(ConnectionKind::Http) == 0).await {
            tracing::debug!(sockets = sockets(), "sockets did not answer their close");
            // Their spokes leave the directory while the link to it is still there.
            open.kill();
            wait(KILLING, || sockets() == 0).await;
        }
        self.end().await;
    }

    /// Waits until nothing is under way that somebody waits for; false when that does not come about in time.
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
            // A session goes from one of them to the next, and back when it is not taken: it is in the next one first.
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

    /// Asks the peers that know how to go on with their sessions on another hub, where there is one that stays: so many in
    /// each second that the others have time to take them, and all within a part of the time that there is.
    async fn ask_to_move(&self, time: Duration) {
        let app = &self.app;
        if !app.calls.moves().has_refuge() {
            return;
        }
        let sockets = app.edge.open().of(ConnectionKind::Websocket);
        let at_once = in_each_look(sockets.len(), time);
        let mut asked = 0_usize;
        for sockets in sockets.chunks(at_once) {
            asked += sockets.iter().filter(|socket| socket.ask_to_move(None)).count();
            if sockets.len() == at_once {
                tokio::time::sleep(LOOK).await;
            }
        }
        tracing::info!(peers = asked, "peers are asked to move to other hubs");
    }

    /// The plain peers, to be let go where they can go elsewhere. A spoke that stays would be called until the end, and each of its
    /// calls that runs then would end as one whose fate is unknown.
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

    /// Asks those that were never asked: they have come since, or there was nowhere to go.
    fn ask_the_others(&self) {
        if self.app.calls.moves().has_refuge() {
            let sockets = self.app.edge.open().of(ConnectionKind::Websocket);
            for socket in sockets.iter().filter(|socket| socket.is_unasked()) {
                socket.ask_to_move(None);
            }
        }
    }

    /// Announces to the other hubs that this one goes away, before anything else of it does.
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

    /// Whether they are awaited, when so many have not moved yet.
    fn goes_on(&mut self, left: usize, now: Instant) -> bool {
        if left != self.left {
            *self = Self { left, since: now };
        }
        left > 0 && now < self.since + STALLED
    }
}

/// How many of so many peers go in each [`LOOK`], so that all have gone in a part of the time.
fn in_each_look(peers: usize, time: Duration) -> usize {
    let rounds = (time / MOVING_PART).as_millis() / LOOK.as_millis();
    let rounds = usize::try_from(rounds).unwrap_or(usize::MAX).max(1);
    peers.div_ceil(rounds).max(MOVES)
}

/// Waits until something holds; false when it does not in time.
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
