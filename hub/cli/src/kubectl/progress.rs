//! Waiting for the cluster, with a line for each change.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::output;

/// How often the Hub is read. What its pods hold is brought up to date more seldom than that.
const LOOK: Duration = Duration::from_secs(2);

/// The status of a Hub is no older than this.
pub(crate) const OLD: Duration = Duration::from_secs(30);

/// Looks until a time is over.
#[derive(Debug)]
pub(crate) struct WaitProgress {
    limit: Duration,
    began: Instant,
    shown: Option<String>,
}

/// The time is over.
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

    /// Says how far it is, on standard error, when that has changed.
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
    /// With what the reader can do now.
    pub(crate) fn into_failure(self, cure: &str) -> Failure {
        let last = self.last.map_or_else(String::new, |last| format!(" ({last})"));
        Failure::late(format!("not done after {:?}{last}; {cure}", self.limit))
    }
}
