//! Sends answers of a session whose connection is lost over the other session of the spoke.
//!
//! The session's hub may be dead without anybody knowing yet: the callers' hubs await the answers for as long as the
//! lease of a hub lasts, and it may take just as long until the session is known to be lost. An answer that arrives
//! twice counts once.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use crate::outbox::Outbox;

/// A connection that has been lost for this long may have been lost together with its hub.
const LOST: Duration = Duration::from_secs(1);

/// How often to look for answers that are ready.
const LOOK: Duration = Duration::from_millis(250);

/// Whenever the session's own connection is lost, lends it that of the other one, for as long as the future is polled.
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
