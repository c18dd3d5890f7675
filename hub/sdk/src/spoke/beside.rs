//! The second session of a spoke, on another hub than the first.
//!
//! Invariants
//! - It is begun once the first is registered and its hub says that there are others. It names the hub to avoid, so
//!   that a load balancer before the hubs takes it to another one after a few tries. If that fails, one session is
//!   enough for a while, or until the number of hubs changes: nothing is tried in between.
//! - If it had to go to the hub of the other session, it leaves that hub once there is another.
//! - Its failures end nothing: the state of the spoke is that of its first session. The one exception is a program that
//!   has taken its place: it has taken the spoke's.

use std::convert::Infallible;
use std::time::Duration;

use alkhub_protocol::Chain;
use alkhub_retry::Backoff;
use tokio::time::sleep;

use super::{FIRST, SECOND, Shared};
use crate::endpoint::{Socket, TRIES};

/// Pauses between attempts to reach another hub: all spokes of a hub hear of another hub at the same time.
const APART: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(4));

/// Pauses after all attempts have failed.
const ENOUGH: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_mins(10));

/// A connection for a session, to a hub other than the other session's; waits for as long as there is none. `None` once
/// the other session has no connection: then any hub will do.
pub(super) async fn dial(shared: &Shared, session: usize) -> Option<Socket> {
    let other = &shared.sessions[1 - session];
    let lost = shared.wait_for(|| other.output().is_none());
    let dialing = async {
        let mut enough = ENOUGH;
        loop {
            let mut hubs = other.hubs()?;
            hubs.wait_for(|hubs| *hubs > 1).await.ok()?;
            if let Some(socket) = try_apart(shared, session).await {
                return Some(socket);
            }
            tracing::info!("no other hub takes another session of the spoke: one is enough for now");
            tokio::select! {
                changed = hubs.changed() => changed.ok()?,
                () = sleep(enough.pause()) => {}
            }
        }
    };
    tokio::select! {
        () = lost => None,
        socket = dialing => socket,
    }
}

/// Moves the second session to another hub when it shares a hub with the first (which may happen after its own hub went
/// away) and there are others; for as long as the future is polled.
pub(super) async fn part(shared: &Shared) -> Infallible {
    let (mut apart, mut pause) = (APART, ENOUGH);
    loop {
        shared.wait_for(|| meet(shared)).await;
        let Some(mut hubs) = shared.sessions[SECOND].hubs() else {
            continue;
        };
        tokio::select! {
            () = shared.wait_for(|| !meet(shared)) => continue,
            _ = hubs.wait_for(|hubs| *hubs > 1) => {}
        }
        sleep(apart.pause()).await;
        if !meet(shared) {
            continue;
        }
        shared.sessions[SECOND].move_on();
        tokio::select! {
            () = shared.wait_for(|| !meet(shared)) => (apart, pause) = (APART, ENOUGH),
            _ = hubs.changed() => {}
            () = sleep(pause.pause()) => {}
        }
    }
}

/// Whether both sessions are on one hub.
fn meet(shared: &Shared) -> bool {
    let first = shared.sessions[FIRST].hub();
    first.is_some() && first == shared.sessions[SECOND].hub()
}

/// A few attempts.
async fn try_apart(shared: &Shared, session: usize) -> Option<Socket> {
    let mut pause = APART;
    for _ in 0..TRIES {
        sleep(pause.pause()).await;
        match shared.endpoints[session].dial().await {
            Ok(socket) => return Some(socket),
            Err(error) => tracing::debug!(error = %Chain::of(&error), "that is no hub for a second session"),
        }
    }
    None
}
