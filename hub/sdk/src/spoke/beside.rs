//! The second session of a spoke, on another hub than the first.
//!
//! Invariants
//! - It is begun once the first is registered, and where its hub says that there are others. It says which hub it avoids, so
//!   that a load balancer before the hubs brings it to another one after a few tries. Where it does not, one session is
//!   enough for a while, or until the number of hubs changes: nothing is tried in between.
//! - One that had to go to the hub of the other leaves it when there is another hub.
//! - Its failures end nothing: the spoke is what its first session is. But where another program has taken its place, that
//!   has the spoke's.

use std::convert::Infallible;
use std::time::Duration;

use alkhub_protocol::Chain;
use alkhub_retry::Backoff;
use tokio::time::sleep;

use super::{FIRST, SECOND, Shared};
use crate::endpoint::{Socket, TRIES};

/// Pauses between tries to reach another hub: all spokes of a hub hear at once that there is another one.
const APART: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(4));

/// Pauses after so many tries.
const ENOUGH: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_mins(10));

/// A connection for a session to another hub than the other session has; waits for as long as there is none. `None` once the
/// other session has no connection: then any hub will do.
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

/// Has the second session go on on another hub when it is where the first one is, as it may be after its hub went away, and
/// there are others; for as long as the future is polled.
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

/// A few tries.
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
