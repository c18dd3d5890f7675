//! Answers of a session whose connection is lost, over the other session of the spoke.
//!
//! Its hub may be dead, and nobody knows that yet: the callers' hubs await the answers for as long as the lease of a hub lasts,
//! and the session may be known to be lost as late as that. An answer that arrives twice counts once.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use crate::outbox::Outbox;

/// A connection that is lost for so long may have been lost with its hub.
const LOST: Duration = Duration::from_secs(1);

/// Time between two looks at what is ready.
const LOOK: Duration = Duration::from_millis(250);

/// Lends the session the connection of the other one whenever its own is lost, for as long as the future is polled.
pub(super) async fn lend(shared: &Shared, which: usize, outbox: &Outbox) -> Infallible {
    let session = &shared.sessions[which];
    loop {
        shared.wait_for(|| session.output().is_none()).await;
        tokio::select! {
            () = shared.wait_for(|| session.output().is_some()) => {}
            never = say(shared, which, outbox) => match never {},
        }
    }
}

async fn say(shared: &Shared, which: usize, outbox: &Outbox) -> Infallible {
    let mut said = 0;
    sleep(LOST).await;
    loop {
        let other = shared.other(which).filter(|other| other.output().is_some());
        if let Some(other) = other {
            let answers = outbox.answers();
            let ready = answers.len();
            if ready > said {
                tracing::debug!(
                    answers = ready - said,
                    "answers of a session without a connection go over the other"
                );
            }
            other.send(answers.into_iter().skip(said));
            said = ready;
        }
        sleep(LOOK).await;
    }
}
