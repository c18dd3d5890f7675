//! Ended calls as they arrive: `alkhub calls --follow`, and the lines of `alkhub dev`.
//!
//! The hub's list is asked repeatedly for what ended after a place in it. A record arrives a while after its call has
//! ended, and records of several hubs arrive in any order: so the place stays some seconds behind, and what was already
//! shown is recognized by its id.
//!
//! Invariants
//! - What had ended before the start is not shown as new, and nothing is shown twice.
//! - A burst is read page by page to its end; a failed look is repeated from the same place.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use alkhub_protocol::PAGE_LIMIT;
use alkhub_protocol::call::CallRecord;
use alkhub_sdk::{CallFilter, CallPage, Client, Error};
use jiff::Timestamp;
use tokio::time::sleep;

use crate::args::Output;
use crate::failure::{Failure, chain};
use crate::output::{self, OutputKind, Reader};
use crate::patience::patient;

/// How often the list is asked.
const LOOK: Duration = Duration::from_millis(500);

/// The longest pause before the next look while the hub does not answer.
const SELDOM: Duration = Duration::from_secs(5);

/// How much later than others a record may arrive and still be shown.
const LATE: Duration = Duration::from_secs(3);

/// How many calls the first page of a look has; the further pages are as long as possible.
const FIRST: u32 = 100;

/// The columns of a list of calls.
pub(crate) const COLUMNS: [&str; 6] = ["STARTED", "OPERATION", "STATUS", "CODE", "SPOKE", "MS"];

/// The cells of one call.
pub(crate) fn row(call: &CallRecord) -> Vec<String> {
    let (whole, tenth) = (call.duration_us / 1_000, call.duration_us % 1_000 / 100);
    vec![
        format!("{:.3}", call.started_at),
        call.operation.clone(),
        call.status.to_string(),
        call.code.clone().unwrap_or_default(),
        call.spoke.clone().unwrap_or_default(),
        format!("{whole}.{tenth}"),
    ]
}

/// The calls that match a filter, starting with the last ones.
#[derive(Debug)]
pub(crate) struct Follow {
    client: Client,
    filter: CallFilter,
    /// Where a look begins; `None` means at the beginning of the list, which was shorter than a page.
    place: Option<String>,
    /// The ids of those after it.
    seen: HashSet<String>,
}

/// What a look found, oldest first.
#[derive(Debug, Default)]
struct Look {
    calls: Vec<CallRecord>,
    /// The places at which a page ended, with the number of calls up to there.
    places: Vec<(usize, String)>,
}

// === impl Follow ===

impl Follow {
    pub(crate) fn new(client: Client, filter: CallFilter) -> Self {
        Self {
            client,
            filter,
            place: None,
            seen: HashSet::new(),
        }
    }

    /// Prints the last calls, and each one that ends from now on, until the reader leaves.
    pub(crate) async fn print(mut self, output: Output) -> Result<ExitCode, Failure> {
        let mut calls = patient(async || self.begin().await).await?;
        let shown = self
            .filter
            .limit
            .map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        calls.drain(..calls.len().saturating_sub(shown));
        loop {
            for call in &calls {
                let reader = match output {
                    Output::Json => output::data(&output::compact(call)?, OutputKind::Json)?,
                    Output::Table => output::line(&line(call))?,
                };
                if reader == Reader::Gone {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            calls = self.later().await?;
        }
    }

    /// The calls of the next look. A look that fails is reported once and repeated, at growing intervals.
    async fn later(&mut self) -> Result<Vec<CallRecord>, Failure> {
        let mut pause = LOOK;
        loop {
            sleep(pause).await;
            let error = match self.next().await {
                Ok(calls) => return Ok(calls),
                Err(error) if passes(&error) => error,
                Err(error) => return Err(error.into()),
            };
            if pause == LOOK {
                output::note(&format!("{}; it is asked again", chain(&error)));
            }
            pause = (pause * 2).min(SELDOM);
        }
    }

    /// Writes a line to standard error for each call that ends from now on; a hub that does not answer is asked again.
    pub(crate) async fn note(mut self) {
        while self.begin().await.is_err() {
            sleep(LOOK).await;
        }
        loop {
            for call in self.next().await.unwrap_or_default() {
                output::note(&line(&call));
            }
            sleep(LOOK).await;
        }
    }

    /// The last calls, oldest first: a page of them, or as many as are asked for.
    async fn begin(&mut self) -> Result<Vec<CallRecord>, Error> {
        let CallPage { mut calls, next, .. } = self.page(self.filter.limit.unwrap_or(0).max(FIRST), None, None).await?;
        self.place = next;
        self.seen = ids(&calls);
        calls.reverse();
        Ok(calls)
    }

    /// The calls that are new since the last look, oldest first.
    async fn next(&mut self) -> Result<Vec<CallRecord>, Error> {
        let Look { calls, places } = match self.place.clone() {
            Some(place) => self.after(place).await?,
            None => self.all().await?,
        };
        let late = calls
            .last()
            .map(|last| ended(last).checked_sub(LATE).unwrap_or(Timestamp::MIN));
        let passed = |(count, _): &&(usize, String)| {
            let last = count.checked_sub(1).and_then(|index| calls.get(index));
            last.is_none_or(|last| Some(ended(last)) <= late)
        };
        let mut after = 0;
        if let Some((count, place)) = places.iter().rev().find(passed) {
            (after, self.place) = (*count, Some(place.clone()));
        }
        let seen = std::mem::replace(&mut self.seen, ids(&calls[after..]));
        Ok(calls.into_iter().filter(|call| !seen.contains(&call.call_id)).collect())
    }

    /// Everything after a place.
    async fn after(&self, mut place: String) -> Result<Look, Error> {
        let (mut look, mut limit) = (Look::default(), FIRST);
        loop {
            let page = self.page(limit, None, Some(place)).await?;
            look.calls.extend(page.calls);
            let Some(next) = page.next else { return Ok(look) };
            look.places.push((look.calls.len(), next.clone()));
            (place, limit) = (next, PAGE_LIMIT);
        }
    }

    /// Everything there is. It was less than a page before, so anything beyond that is new.
    async fn all(&self) -> Result<Look, Error> {
        let (mut calls, mut places, mut before, mut limit) = (Vec::new(), Vec::new(), None, FIRST);
        loop {
            let page = self.page(limit, before, None).await?;
            calls.extend(page.calls);
            let Some(next) = page.next else { break };
            places.push((calls.len(), next.clone()));
            (before, limit) = (Some(next), PAGE_LIMIT);
        }
        calls.reverse();
        let places = places.into_iter().rev();
        // A place is that of the oldest call on its page.
        let places = places.map(|(newer, place)| (calls.len() - newer + 1, place)).collect();
        Ok(Look { calls, places })
    }

    async fn page(&self, limit: u32, before: Option<String>, after: Option<String>) -> Result<CallPage, Error> {
        let filter = CallFilter {
            limit: Some(limit),
            before,
            after,
            ..self.filter.clone()
        };
        self.client.calls_page(&filter).await
    }
}

/// Whether another look may succeed: the hub is away, or has no answer now, and nothing is wrong with the key.
fn passes(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::Untrusted { .. } | Error::Lost | Error::Timeout(_) => true,
        // 404: a proxy before a hub may answer that while it has no hub.
        Error::Refused { status, .. } => *status == 404 || *status != 403 && error.retryable(),
        Error::Problem(problem) => problem.retryable || problem.status >= 500,
        Error::Call(_)
        | Error::Setting { .. }
        | Error::Name(_)
        | Error::Topic(_)
        | Error::Rejected(_)
        | Error::Lagged(_)
        | Error::Encode(_)
        | Error::Decode { .. }
        | Error::TooLarge { .. }
        | Error::Closed
        | Error::Panicked => false,
    }
}

fn ids(calls: &[CallRecord]) -> HashSet<String> {
    calls.iter().map(|call| call.call_id.clone()).collect()
}

fn ended(call: &CallRecord) -> Timestamp {
    let duration = Duration::from_micros(call.duration_us);
    call.started_at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// One call on a line; columns are as wide as most of their contents.
fn line(call: &CallRecord) -> String {
    let cells: Vec<_> = row(call).iter().map(|cell| output::visible(cell)).collect();
    let [started, operation, status, code, spoke, ms] = cells.as_slice() else {
        return cells.join("  ");
    };
    let line = format!("{started}  {operation:<24}  {status:<9}  {ms:>9} ms  {spoke}  {code}");
    line.trim_end().to_owned()
}
