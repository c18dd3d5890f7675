//! The tasks of a term, and which of them was lost.
//!
//! Invariants
//! - A task that panics, or returns before its end was asked for, is logged as an error with its name and told to whoever
//!   waits for [`Kept::lost`], whether they waited by then or not.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks and watches over them.
#[derive(Debug)]
pub(super) struct Kept {
    stop: CancellationToken,
    tasks: TaskTracker,
    first: watch::Sender<Option<Lost>>,
}

/// A task that is gone though it should run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task `{0}` of the operator ended before it should")]
pub struct Lost(&'static str);

// === impl Kept ===

impl Kept {
    /// Nothing is lost any more once `stop` is cancelled.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            tasks: TaskTracker::new(),
            first: watch::Sender::new(None),
        }
    }

    /// Spawns a task that runs until the end is asked for.
    pub(super) fn keep(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, first) = (self.stop.clone(), self.first.clone());
        self.tasks.spawn(async move {
            let has_panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            if has_panicked || !stop.is_cancelled() {
                tracing::error!(
                    task.name = name,
                    has_panicked,
                    "a task is lost: the operator cannot go on and ends"
                );
                first.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert(Lost(name));
                    is_first
                });
            }
        });
    }

    /// Resolves with the first task that was lost; never when none is.
    pub(super) async fn lost(&self) -> Lost {
        let mut first = self.first.subscribe();
        let lost = first.wait_for(Option::is_some).await.ok().and_then(|lost| lost.clone());
        match lost {
            Some(lost) => lost,
            // The sender lives in `self`: it is never closed.
            None => std::future::pending().await,
        }
    }

    /// Waits until all have ended.
    pub(super) async fn ended(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use alkhub_test_support::within;

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_returns_is_told_with_its_name() {
        for (name, fault) in [
            ("panics", async { panic!("no room left") }.boxed()),
            ("returns", async {}.boxed()),
        ] {
            let kept = Kept::new(CancellationToken::new());
            kept.keep("healthy", std::future::pending());
            kept.keep(name, fault);

            assert_eq!(within("the loss", kept.lost()).await, Lost(name));
        }
    }

    #[tokio::test]
    async fn a_task_that_ends_when_it_was_asked_is_not_lost() {
        let stop = CancellationToken::new();
        let kept = Kept::new(stop.clone());
        kept.keep("obedient", stop.clone().cancelled_owned());

        stop.cancel();
        let first = kept.first.clone();
        within("the end", kept.ended()).await;

        assert_eq!(*first.borrow(), None);
    }
}
