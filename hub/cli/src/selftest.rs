//! `alkhub selftest`: a spoke and its callers in one process, to prove that calls find their way through a hub.
//!
//! The chart's `helm test` runs it in a pod of its own: each call is made over a new connection, which the Service may
//! route to another hub pod each time.

use std::process::ExitCode;
use std::time::Duration;

use alkhub_sdk::{Code, Error, Failure as Refusal, Operation, Spoke, Status};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::args::{ClientArgs, Output, SelftestArgs};
use crate::failure::Failure;
use crate::hub::HubAccess;
use crate::output;

/// The spoke's name and the namespace of its operation.
const NAME: &str = "selftest";
const OPERATION: &str = "selftest.echo";

/// Whatever is under way at the end may still report what it is waiting for.
const GRACE: Duration = Duration::from_millis(100);

/// Offers an operation and calls it, each time over a new connection.
pub(crate) async fn selftest(args: SelftestArgs) -> Result<ExitCode, Failure> {
    let SelftestArgs { calls, wait, client } = args;
    let ClientArgs { hub, output } = client;
    let access = hub.access()?;
    let end = Instant::now() + wait.0;
    let spoke = retried(end, async || spoke(&access, end).await).await?;
    let mut slowest = Duration::ZERO;
    for n in 0..calls {
        let input = json!({ "n": n, "nonce": rand::random::<u64>().to_string() });
        let start = Instant::now();
        let answer = retried(end, async || call(&access, &input).await).await?;
        slowest = slowest.max(start.elapsed());
        if answer != input {
            return Err(Failure::other(format!("`{OPERATION}` answered {answer} to {input}")));
        }
    }
    spoke.shutdown().await;
    let slowest_ms = slowest.as_millis();
    match output {
        Output::Table => output::text(&format!(
            "selftest: {calls} routed calls answered, the slowest in {slowest_ms} ms"
        )),
        Output::Json => {
            output::text(&json!({ "calls": calls, "slowestMs": u64::try_from(slowest_ms).ok() }).to_string())
        }
    }
}

/// A spoke that has registered, or why it has not by the end.
async fn spoke(access: &HubAccess, end: Instant) -> Result<Spoke, Error> {
    let echo =
        Operation::query(OPERATION, async |input: Value| Ok::<_, Refusal>(input)).description("answers its input");
    let spoke = access.spoke().name(NAME).sessions(1).operation(echo).spawn()?;
    let mut status = spoke.status();
    let settled = status.wait_for(|status| !matches!(status, Status::Connecting(_)));
    // If it is late, the last known cause is reported.
    let late = timeout_at(end, settled).await.is_err();
    let status = status.borrow().clone();
    match status {
        Status::Registered(_) => Ok(spoke),
        Status::Ended(Some(error)) | Status::Connecting(Some(error)) => Err(error),
        Status::Connecting(None) if late => std::future::pending().await,
        Status::Connecting(None) | Status::Ended(None) => Err(Error::Closed),
    }
}

async fn call(access: &HubAccess, input: &Value) -> Result<Value, Error> {
    let client = access.client()?;
    let answer = client.call(OPERATION, input).await;
    client.close().await;
    answer
}

/// Retries with jitter until `end` while the hub is not there yet, not ready, or has not heard of the spoke. A wrong
/// key is final.
async fn retried<T>(end: Instant, mut work: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Failure> {
    let mut last = None;
    loop {
        let error = match timeout_at(end + GRACE, work()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => {
                let silent = || Failure::other("the hub did not answer within --wait");
                return Err(last.map_or_else(silent, Failure::from));
            }
        };
        let unknown_yet = matches!(error.code(), Some(Code::OperationNotFound | Code::NoProvider));
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !(error.retryable() || unknown_yet || matches!(error, Error::Lost)) {
            return Err(error.into());
        }
        last = Some(error);
        sleep(Duration::from_millis(rand::random_range(200..600)).min(left)).await;
    }
}
