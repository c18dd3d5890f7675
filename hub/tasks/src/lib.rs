//! Watches over the loops that a process depends on: those of a hub, or of the operator.
//!
//! A hub is a handful of loops that run from its start to its end: one takes what other hubs relay, one keeps the
//! deadlines, one holds the link to Redis. If one of them is lost, the rest looks healthy and does half of its work. So
//! each of them is handed to a [`Supervisor`], and the process ends when one is lost.
//!
//! Promises
//! - A loop that panics, or that returns before its end was asked for, is logged as an error with its name, counted, and
//!   reported to whoever waits for [`Supervisor::lost`], whether they waited by then or not.
//! - Loops that end because they should are not reported.
//!
//! Never
//! - It starts no loop again, and ends no process: that is for whoever waits for [`Supervisor::lost`].
//! - It knows nothing of what a loop does.
//!
//! Uses no other crate of alkhub.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use prometheus::{IntCounterVec, Opts, Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns loops and reports the first that is lost. Clones watch over the same loops.
#[derive(Clone, Debug)]
pub struct Supervisor {
    tasks: TaskTracker,
    stop: CancellationToken,
    first: Arc<watch::Sender<Option<Lost>>>,
    losses: IntCounterVec,
}

/// A loop that has ended although it should be running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its name: the crate, a dot, and what it does.
    pub name: &'static str,
    /// The text of its panic; `None`: it returned.
    pub panic: Option<String>,
}

// === impl Supervisor ===

impl Supervisor {
    /// Counts every loop on `tasks`; `stop` asks for their end.
    ///
    /// # Panics
    /// Never: the metric's name and label are constants.
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        let help = "Loops of the hub that ended before they should, by loop; the hub ends itself then.";
        let losses = IntCounterVec::new(Opts::new("alkhub_loops_lost_total", help), &["loop"]);
        Self {
            tasks,
            stop,
            first: Arc::new(watch::Sender::new(None)),
            losses: losses.expect("a valid name and one label"),
        }
    }

    /// Puts `alkhub_loops_lost_total` into a registry.
    ///
    /// # Errors
    /// The registry has it already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.losses.clone()))
    }

    /// The tracker of all tasks.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The token that asks for the end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Spawns a loop that runs until it is asked to stop.
    pub fn keep(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.keep_until(name, self.stop.clone(), task);
    }

    /// Spawns a loop that runs until `end` is cancelled, or until it is asked to stop.
    pub fn keep_until(
        &self,
        name: &'static str,
        end: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let supervisor = self.clone();
        self.spawn(name, task, move || {
            if !end.is_cancelled() && !supervisor.stop.is_cancelled() {
                supervisor.lose(Lost { name, panic: None });
            }
        });
    }

    /// Spawns a task that may end by itself, and must not panic.
    pub fn run(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, task, || {});
    }

    /// Resolves with the first loop that was lost; never if none is.
    pub async fn lost(&self) -> Lost {
        let mut first = self.first.subscribe();
        let lost = first.wait_for(Option::is_some).await.ok().and_then(|lost| lost.clone());
        match lost {
            Some(lost) => lost,
            // The sender lives in `self`, so it is never closed.
            None => std::future::pending().await,
        }
    }

    /// Notes a loss: of a loop of this process, or one that another supervisor has reported.
    pub fn lose(&self, lost: Lost) {
        tracing::error!(task.name = lost.name, error = %lost, "a task is lost: the process cannot go on and ends");
        self.losses.with_label_values(&[lost.name]).inc();
        self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(lost);
            is_first
        });
    }

    fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        returned: impl FnOnce() + Send + 'static,
    ) {
        // Creates the series at the start: a counter that appears with its first loss shows no increase.
        self.losses.with_label_values(&[name]);
        let supervisor = self.clone();
        self.tasks.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) => returned(),
                Err(panic) => supervisor.lose(Lost {
                    name,
                    panic: Some(text(&*panic)),
                }),
            }
        });
    }
}

// === impl Lost ===

impl std::error::Error for Lost {}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panic {
            Some(panic) => write!(f, "loop `{}` panicked: {panic}", self.name),
            None => write!(f, "loop `{}` ended before the process", self.name),
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a text").to_owned()
}

#[cfg(test)]
mod tests {
    use alkhub_test_support::within;

    use super::*;

    fn supervisor() -> Supervisor {
        Supervisor::new(TaskTracker::new(), CancellationToken::new())
    }

    fn losses(supervisor: &Supervisor, name: &str) -> u64 {
        supervisor.losses.with_label_values(&[name]).get()
    }

    #[tokio::test]
    async fn a_loop_that_panics_is_reported_with_its_name_and_its_text() {
        let supervisor = supervisor();
        supervisor.keep("test.healthy", std::future::pending());
        supervisor.keep("test.broken", async { panic!("no {} left", "room") });

        let lost = within("the loss", supervisor.lost()).await;

        assert_eq!(lost.to_string(), "loop `test.broken` panicked: no room left");
        assert_eq!(
            (losses(&supervisor, "test.broken"), losses(&supervisor, "test.healthy")),
            (1, 0)
        );
    }

    #[tokio::test]
    async fn a_loop_that_returns_before_its_end_is_reported_and_one_that_may_is_not() {
        let supervisor = supervisor();
        supervisor.run("test.once", async {});
        supervisor.keep("test.gone", async {});

        let lost = within("the loss", supervisor.lost()).await;

        assert_eq!(lost.to_string(), "loop `test.gone` ended before the process");
        assert_eq!(losses(&supervisor, "test.once"), 0);
    }

    #[tokio::test]
    async fn loops_that_end_when_they_should_are_not_lost() {
        let (supervisor, end) = (supervisor(), CancellationToken::new());
        let (stopped, drained) = (supervisor.stop.clone(), end.clone());
        supervisor.keep("test.stopped", async move { stopped.cancelled().await });
        supervisor.keep_until("test.drained", end.clone(), async move { drained.cancelled().await });

        end.cancel();
        supervisor.stop.cancel();
        supervisor.tasks.close();
        within("both end", supervisor.tasks.wait()).await;

        assert_eq!(supervisor.lost().now_or_never(), None);
    }

    #[tokio::test]
    async fn only_the_first_loss_is_reported_and_all_are_counted() {
        let supervisor = supervisor();
        for name in ["test.one", "test.two"] {
            supervisor.lose(Lost { name, panic: None });
        }

        assert_eq!(within("the loss", supervisor.lost()).await.name, "test.one");
        assert_eq!(losses(&supervisor, "test.two"), 1);
    }
}
