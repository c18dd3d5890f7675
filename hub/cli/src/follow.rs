//! Ended calls as they come: `alkhub calls --follow`, and the lines of `alkhub dev`.
//!
//! The hub's list is asked again and again; what it had before is told apart by the calls' ids. When so many calls ended
//! between two looks that the list no longer reaches back, a line says that some are missing.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use alkhub_protocol::CallStatus;
use alkhub_protocol::call::CallRecord;
use alkhub_sdk::{CallFilter, Client};
use tokio::time::sleep;

use crate::args::Output;
use crate::failure::Failure;
use crate::output::{self, Form, Reader};

/// How often the list is asked.
const LOOK: Duration = Duration::from_millis(500);

/// Calls of one look; with the second, which is the hub's limit, a busy hub is caught up with.
const PAGES: [u32; 2] = [100, 1_000];

/// The columns of a list of calls.
pub(crate) const COLUMNS: [&str; 6] = ["STARTED", "OPERATION", "STATUS", "CODE", "SPOKE", "MS"];

/// The cells of one call.
pub(crate) fn row(call: &CallRecord) -> Vec<String> {
    let status = match call.status {
        CallStatus::Completed => "completed",
        CallStatus::Failed => "failed",
        CallStatus::Aborted => "aborted",
    };
    let (whole, tenth) = (call.duration_us / 1_000, call.duration_us % 1_000 / 100);
    vec![
        format!("{:.3}", call.started_at),
        call.operation.clone(),
        status.to_owned(),
        call.code.clone().unwrap_or_default(),
        call.spoke.clone().unwrap_or_default(),
        format!("{whole}.{tenth}"),
    ]
}

/// The calls of a filter, from the last ones on.
#[derive(Debug)]
pub(crate) struct Follow {
    client: Client,
    filter: CallFilter,
    /// Those of the last look; nothing before the first.
    seen: Option<HashSet<String>>,
}

// === impl Follow ===

impl Follow {
    pub(crate) fn new(client: Client, filter: CallFilter) -> Self {
        Self {
            client,
            filter,
            seen: None,
        }
    }

    /// Prints calls until the reader leaves.
    pub(crate) async fn print(mut self, output: Output) -> Result<ExitCode, Failure> {
        loop {
            for call in self.next().await? {
                let reader = match output {
                    Output::Json => output::data(&output::compact(&call)?, Form::Json)?,
                    Output::Table => output::line(&line(&call))?,
                };
                if reader == Reader::Gone {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Tells of each call that ends from now on, on standard error; a hub that does not answer is asked again.
    pub(crate) async fn note(mut self) {
        let now = self.client.calls(&self.filter).await.unwrap_or_default();
        self.seen = Some(now.into_iter().map(|call| call.call_id).collect());
        loop {
            for call in self.next().await.unwrap_or_default() {
                output::note(&line(&call));
            }
            sleep(LOOK).await;
        }
    }

    /// The calls that are new since the last look, the oldest first.
    async fn next(&mut self) -> Result<Vec<CallRecord>, Failure> {
        let Some(seen) = &self.seen else {
            let first = self.client.calls(&self.filter).await?;
            self.seen = Some(first.iter().map(|call| call.call_id.clone()).collect());
            return Ok(first.into_iter().rev().collect());
        };
        for limit in PAGES {
            let filter = CallFilter {
                limit: Some(limit),
                ..self.filter.clone()
            };
            let calls = self.client.calls(&filter).await?;
            let full = u32::try_from(calls.len()).is_ok_and(|count| count == limit);
            let reaches_back = !full || calls.iter().any(|call| seen.contains(&call.call_id));
            if !reaches_back && limit != PAGES[1] {
                continue;
            }
            if !reaches_back {
                output::warning("more calls ended than the list holds: some are missing here");
            }
            let ids = calls.iter().map(|call| call.call_id.clone()).collect();
            let new = calls
                .into_iter()
                .filter(|call| !seen.contains(&call.call_id))
                .rev()
                .collect();
            self.seen = Some(ids);
            return Ok(new);
        }
        Ok(Vec::new())
    }
}

/// One call on a line; columns are as wide as most of what stands in them.
fn line(call: &CallRecord) -> String {
    let cells: Vec<_> = row(call).iter().map(|cell| output::visible(cell)).collect();
    let [started, operation, status, code, spoke, ms] = cells.as_slice() else {
        return cells.join("  ");
    };
    let line = format!("{started}  {operation:<24}  {status:<9}  {ms:>9} ms  {spoke}  {code}");
    line.trim_end().to_owned()
}
