//! The end of a spoke: it takes no more calls, and lets those that run finish.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::attachment::Attachment;
use super::{NoRoom, Shared};

/// How long a lost connection may take to come back when the spoke is to end: until then its running calls have nobody
/// to answer to.
const AWAY: Duration = Duration::from_secs(2);

/// How long a hub may say nothing, not even to a ping, when another one has confirmed that the spoke is to end: a socket
/// is given up as dead after longer than that, because there a wrong guess costs more.
const SILENT: Duration = Duration::from_secs(2);

// === impl Shared ===

impl Shared {
    /// Withdraws the operations, waits for the running calls and closes.
    pub(super) async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        let drained = async {
            let unconfirmed = self.withdraw().await;
            self.quiet().await;
            self.answer_beside(&unconfirmed);
            drop(timeout(AWAY, self.answered()).await);
        };
        // Whatever has not finished by then is aborted with the connection.
        tokio::select! {
            _ = timeout(self.drain_timeout, drained) => {}
            () = self.away(|| self.sessions.iter().any(|session| session.output().is_some())) => {}
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits until a connection is lost and does not come back soon.
    async fn away(&self, is_there: impl Fn() -> bool) {
        loop {
            self.wait_for(|| !is_there()).await;
            if timeout(AWAY, self.wait_for(&is_there)).await.is_err() {
                return;
            }
        }
    }

    /// Asks the hubs to send no more calls, by registering without operations, and waits for their answers: whatever
    /// they sent before arrives before that. Once one of two hubs has answered, the other is not waited for if it says
    /// nothing at all: it may be dead, and the spoke refuses what comes from it late. Returns the sessions whose hubs
    /// have not confirmed it.
    async fn withdraw(&self) -> Vec<&Attachment> {
        let one_has_answered = CancellationToken::new();
        let sessions = self.sessions.iter();
        let withdrawn = join_all(sessions.map(|session| self.withdraw_beside(session, &one_has_answered))).await;
        withdrawn.into_iter().flatten().collect()
    }

    /// Withdraws the operations of one session, whose hub must not be silent once that of the other one has answered.
    /// Returns the session if its hub has not confirmed that.
    async fn withdraw_beside<'a>(
        &self,
        session: &'a Attachment,
        one_has_answered: &CancellationToken,
    ) -> Option<&'a Attachment> {
        let silent = async {
            one_has_answered.cancelled().await;
            session.silent(SILENT).await;
        };
        tokio::select! {
            withdrawn = self.withdraw_from(session) => if withdrawn {
                one_has_answered.cancel();
                return None;
            },
            () = silent => tracing::info!("a hub says nothing: the spoke ends without its answer"),
        }
        Some(session)
    }

    /// Sends the answers that the hubs of these sessions may lack over a session whose hub has confirmed that the spoke
    /// is to end. Those hubs may be dead although their connections are not known to be lost, so nobody else would send
    /// the answers. One that arrives twice counts once.
    fn answer_beside(&self, unconfirmed: &[&Attachment]) {
        let is_confirmed = |session: &Attachment| !unconfirmed.iter().any(|one| std::ptr::eq(*one, session));
        let mut there = self.sessions.iter().filter(|session| session.output().is_some());
        if let Some(there) = there.find(|session| is_confirmed(session)) {
            let outboxes = unconfirmed.iter().filter_map(|session| session.outbox());
            there.send(outboxes.flat_map(|outbox| outbox.answers()));
        }
    }

    /// Withdraws the operations of one session, if there is one; returns whether its hub has confirmed that.
    pub(super) async fn withdraw_from(&self, session: &Attachment) -> bool {
        // There is no point in waiting for a hub that refuses, is silent, or has lost the session's connection.
        tokio::select! {
            withdrawn = self.register_again(session, self.concurrency) => withdrawn.is_ok(),
            () = self.away(|| session.output().is_some()) => false,
        }
    }

    /// Waits until no call runs, and accepts none from then on.
    async fn quiet(&self) {
        let mut running = self.running.subscribe();
        loop {
            // Cannot fail: we hold the sender.
            let _ = running.wait_for(|calls| *calls == 0).await;
            let mut closed = false;
            self.running.send_if_modified(|calls| {
                closed = *calls == 0;
                self.closed.store(closed, Ordering::Release);
                false
            });
            if closed {
                return;
            }
        }
    }

    /// Waits until no answer to a call waits for a connection to come back: closing would give up the attempts, and the
    /// caller of a call that has been run would be told that its spoke is lost.
    async fn answered(&self) {
        let answered = || {
            let is_left = !self.left.lock().is_empty();
            let waits = |session: &Arc<Attachment>| session.owes_answers() || (is_left && session.comes_back());
            !self.sessions.iter().any(waits)
        };
        self.wait_for(answered).await;
    }

    /// Counts a call that begins.
    ///
    /// # Errors
    /// No further call may begin.
    pub(super) fn begin(&self) -> Result<(), NoRoom> {
        let most = self.most().map(|calls| usize::try_from(calls).unwrap_or(usize::MAX));
        let mut begins = Ok(());
        self.running.send_if_modified(|calls| {
            begins = match *calls {
                _ if self.closed.load(Ordering::Acquire) => Err(NoRoom::Closed),
                running if most.is_some_and(|most| running >= most) => Err(NoRoom::Full),
                _ => Ok(()),
            };
            *calls += usize::from(begins.is_ok());
            begins.is_ok()
        });
        begins
    }
}
