//! Waiting for the cluster, with a line for each change.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::output;

/// How often the Hub is read. While a pod is emptied, the operator asks for its load as often.
const LOOK: Duration = Duration::from_secs(1);

/// The status of a Hub is never older than this.
pub(crate) const OLD: Duration = Duration::from_secs(30);

/// Repeated looks, up to a time limit.
#[derive(Debug)]
pub(crate) struct WaitProgress {
    limit: Duration,
    began: Instant,
    shown: Option<String>,
}

/// The time limit has passed.
#[derive(Debug)]
pub(crate) struct Late {
    limit: Duration,
    last: Option<String>,
}

// === impl WaitProgress ===

impl WaitProgress {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            began: Instant::now(),
            shown: None,
        }
    }

    /// Reports the progress on standard error when it has changed.
    pub(crate) fn show(&mut self, line: String) {
        if self.shown.as_ref() != Some(&line) {
            output::note(&line);
            self.shown = Some(line);
        }
    }

    /// Waits until it is time to look again.
    pub(crate) async fn next(&mut self) -> Result<(), Late> {
        if self.began.elapsed() + LOOK > self.limit {
            return Err(Late {
                limit: self.limit,
                last: self.shown.take(),
            });
        }
        sleep(LOOK).await;
        Ok(())
    }
}

// === impl Late ===

impl Late {
    /// Adds what the reader can do now.
    pub(crate) fn into_failure(self, cure: &str) -> Failure {
        let last = self.last.map_or_else(String::new, |last| format!(" ({last})"));
        Failure::late(format!("not done after {:?}{last}; {cure}", self.limit))
    }
}
