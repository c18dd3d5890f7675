//! Waiting for the cluster, with a line for each change.
//!
//! Promise: a status counts as an answer only if it names the order. The operator writes that beside figures that are
//! younger than the order; how old a status without it is nobody can tell, since no operator may run.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::output;

/// How often the Hub is read. While a pod is emptied, the operator asks for its load as often.
const LOOK: Duration = Duration::from_secs(1);

/// An operator that runs and reaches the Hub answers an order within this time, also after another has begun to lead.
const ANSWER: Duration = Duration::from_secs(60);

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

    /// Waits until it is time to look again; less long for an operator that has not answered.
    pub(crate) async fn next(&mut self, is_answered: bool) -> Result<(), Late> {
        let limit = limit(self.limit, is_answered);
        if self.began.elapsed() + LOOK > limit {
            return Err(Late {
                limit,
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

/// An order with the time: no two are the same.
pub(crate) fn order() -> String {
    format!("{:.3}", Timestamp::now())
}

/// What is said of an object until the operator has answered.
pub(crate) fn unanswered(name: &str) -> String {
    format!("{name}: the operator has not answered yet")
}

/// What the reader can do if it does not answer at all.
pub(crate) fn see_why(hub: &str) -> String {
    format!(
        "see whether the operator runs (`kubectl get pods --all-namespaces | grep alkhub-operator`), reaches the Hub \
         (`kubectl alkhub status {hub}`) and is as new as this program; if somebody else has given the same order \
         meanwhile, it has answered that one"
    )
}

/// How long is waited in all.
fn limit(wanted: Duration, is_answered: bool) -> Duration {
    match is_answered {
        true => wanted,
        false => wanted.min(ANSWER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_that_does_not_answer_is_waited_for_less_long() {
        assert_eq!(limit(ANSWER * 5, true), ANSWER * 5);
        assert_eq!(limit(ANSWER * 5, false), ANSWER);
        assert_eq!(limit(LOOK, false), LOOK, "never longer than was asked for");
    }

    #[test]
    fn an_order_is_a_time() {
        let order = order();

        assert!(order.parse::<Timestamp>().is_ok() && order.contains('.'), "{order}");
    }
}
