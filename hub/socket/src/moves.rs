//! Sessions that move from one hub to another: takes the messages of other hubs about them, and passes each to the part
//! concerned.
//!
//! A peer that comes back on another hub asks there for its session. That hub asks all others ([`crate::claims`]). The
//! one that has the session takes it from the connection, or from the task where it waits, as for a claim of its own,
//! and hands it over ([`crate::departures`]): its counts, what the peer lacks, what waits, what it offers and what
//! runs. The asking hub goes on with it ([`crate::arrivals`]). What was running goes on through a tunnel
//! ([`crate::tunnel`], [`crate::left`]).
//!
//! Invariants
//! - A session is on one hub at a time: one gives it up before the other begins with it, and messages for the peer in
//!   between go through the tunnel. So callers can reach the spoke at every moment.
//! - The peer's count shows what the peer lacks, and the hub's count what the hub lacks: nothing is sent twice, and
//!   nothing is lost.
//! - A claim that cannot be met disturbs nobody, except that a peer which lacks messages that are no longer kept loses
//!   its session.
//! - A session on its way is counted by both hubs ([`Sockets::passing`]): neither ends before it has arrived.

use alkhub_calls::{SessionEvent, SessionMessage, TunnelId};
use alkhub_protocol::HubId;
use tokio::time::Instant;

use crate::arrivals::ComingSessions;
use crate::claims::Asked;
use crate::departures;
use crate::handover::ClaimId;
use crate::left::PeerMessage;
use crate::sockets::Sockets;

/// Takes the messages of other hubs about sessions, until the hub stops. A hub that does not run this gives no session
/// away.
pub async fn attend(sockets: Sockets) {
    let stop = sockets.edge().scope().stop.clone();
    stop.run_until_cancelled(attending(sockets)).await;
}

async fn attending(sockets: Sockets) {
    let moves = sockets.calls().moves().clone();
    let mut arrivals = ComingSessions::new(sockets.clone());
    loop {
        let overdue = arrivals.overdue();
        tokio::select! {
            event = moves.next() => match event {
                SessionEvent::Message { from, message } => take(&sockets, &mut arrivals, from, message),
                SessionEvent::Returned { hub, claim, nobody_listens } => arrivals.returned(claim, &hub, nobody_listens),
                SessionEvent::Lost { hub } => lost(&sockets, &mut arrivals, &hub),
            },
            () = sockets.claims().expiry() => {
                let expired = sockets.claims().take_expired(&moves);
                expired.into_iter().for_each(|claim| arrivals.nobody_has(claim));
            }
            () = until(overdue) => arrivals.end_overdue(),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn take(sockets: &Sockets, arrivals: &mut ComingSessions, from: HubId, message: SessionMessage) {
    match message {
        SessionMessage::Claim {
            claim,
            digest,
            received,
            key,
        } => departures::asked(
            sockets,
            Asked {
                claim: ClaimId {
                    hub: from,
                    number: claim,
                },
                digest,
                received,
                key,
                at: Instant::now(),
            },
        ),
        SessionMessage::Unknown { claim } => arrivals.unknown(claim, &from),
        SessionMessage::Refused { claim, error } => arrivals.refused(claim, &from, error),
        SessionMessage::Part { tunnel, state } => arrivals.part(through(from, tunnel), &state),
        SessionMessage::Handed { claim, tunnel, state } => arrivals.begin(through(from, tunnel), claim, &state),
        SessionMessage::Again { tunnel, message } => arrivals.again(&through(from, tunnel), message),
        SessionMessage::Whole { tunnel } => arrivals.whole(&through(from, tunnel)),
        SessionMessage::ToPeer { tunnel, passed } => match sockets.tunnels().get(&from, tunnel) {
            Some(tunnel) => tunnel.deliver(passed),
            // That hub does not know yet, or its first message was lost here.
            None => sockets.say(&from, SessionMessage::Left { tunnel }),
        },
        SessionMessage::Done { tunnel, leg } => {
            if let Some(tunnel) = sockets.tunnels().get(&from, tunnel) {
                tunnel.done(&leg);
            }
        }
        SessionMessage::Closed { tunnel } => {
            // It may have broken before it had arrived whole.
            arrivals.broken(&through(from.clone(), tunnel));
            if let Some(tunnel) = sockets.tunnels().get(&from, tunnel) {
                tunnel.closed();
            }
        }
        SessionMessage::FromPeer { tunnel, size, message } => {
            if let Some(left) = sockets.left().get(&from, tunnel) {
                left.received(PeerMessage { message, size });
            }
        }
        SessionMessage::Left { tunnel } => {
            if let Some(left) = sockets.left().get(&from, tunnel) {
                left.over();
            }
        }
    }
}

fn through(hub: HubId, number: u64) -> TunnelId {
    TunnelId { hub, number }
}

/// Nothing that was under way between this hub and that one goes on. The other hub may be alive and not know: each end
/// of each tunnel is told.
fn lost(sockets: &Sockets, arrivals: &mut ComingSessions, hub: &HubId) {
    for claim in sockets.claims().lost(sockets.calls().moves(), hub) {
        arrivals.nobody_has(claim);
    }
    arrivals.lost(hub);
    for tunnel in sockets.tunnels().to(hub) {
        tunnel.breaks();
    }
    sockets.left().lost(hub);
}
