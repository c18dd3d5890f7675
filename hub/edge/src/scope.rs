//! Counts the tasks of one hub, and shows them how far its shutdown has got.

use std::panic::resume_unwind;
use std::time::Duration;

use alkhub_tasks::Supervisor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// A hub's tasks and the steps of its shutdown. Clones belong to the same hub.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Counts every task; the end of the hub waits for them.
    pub tasks: TaskTracker,
    /// Watches over the loops among them.
    pub supervisor: Supervisor,
    /// No new connections; running requests are finished.
    pub drain: CancellationToken,
    /// Requests that still wait for an answer get one now.
    pub close: CancellationToken,
    /// Everything ends now.
    pub stop: CancellationToken,
}

// === impl Scope ===

impl Scope {
    /// Does work that must not stop halfway. If the future is dropped, the work continues to its end, and a drain waits
    /// for it.
    pub async fn finish<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.tasks.spawn(work.in_current_span()).await {
            Ok(done) => done,
            // Nobody cancels it.
            Err(ended) => resume_unwind(ended.into_panic()),
        }
    }

    /// Waits for `time`; false if the hub ends meanwhile.
    pub async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}

impl Default for Scope {
    fn default() -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Self {
            supervisor: Supervisor::new(tasks.clone(), stop.clone()),
            tasks,
            drain: CancellationToken::new(),
            close: CancellationToken::new(),
            stop,
        }
    }
}
