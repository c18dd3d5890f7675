//! The end of a spoke: it takes no more calls, and lets those that run finish.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::attachment::Attachment;
use super::{NoRoom, Shared, Status};

/// How long a lost connection may take to come back when the spoke is to end: until then its running calls have nobody
/// to answer to.
const AWAY: Duration = Duration::from_secs(2);

// === impl Shared ===

impl Shared {
    /// Withdraws the operations, waits for the running calls and closes.
    pub(super) async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        let drained = async {
            self.withdraw().await;
            self.quiet().await;
        };
        // Whatever has not finished by then is aborted with the connection.
        tokio::select! {
            _ = timeout(self.drain_timeout, drained) => {}
            () = self.away() => {}
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits until the connection is lost and does not come back soon.
    async fn away(&self) {
        let mut status = self.status.subscribe();
        loop {
            // Cannot fail: we hold the sender.
            let _ = status.wait_for(|status| !is_there(status)).await;
            if timeout(AWAY, status.wait_for(is_there)).await.is_err() {
                return;
            }
        }
    }

    /// Asks the hubs to send no more calls, by registering without operations, and waits for their answers: whatever
    /// they sent before arrives before that.
    async fn withdraw(&self) {
        join_all(self.sessions.iter().map(|session| self.withdraw_from(session))).await;
    }

    /// Withdraws the operations of one session, if there is one.
    pub(super) async fn withdraw_from(&self, session: &Attachment) {
        // There is no point in waiting for a hub that refuses or is silent.
        drop(self.register_again(session, self.concurrency).await);
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

fn is_there(status: &Status) -> bool {
    matches!(status, Status::Registered(_))
}
