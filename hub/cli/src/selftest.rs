//! `alkhub selftest`: a spoke and its callers in one process, to prove that calls find their way through a hub.
//!
//! The chart's `helm test` runs it in a pod of its own: each call is made over a new connection, which the Service may
//! hand to another hub pod each time.

use std::process::ExitCode;
use std::time::Duration;

use alkhub_sdk::{Code, Error, Failure as Refusal, Operation, Spoke};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::args::{ClientArgs, Output, SelftestArgs};
use crate::failure::Failure;
use crate::hub::Target;
use crate::output;

/// The spoke's name and the namespace of its operation.
const NAME: &str = "selftest";
const OPERATION: &str = "selftest.echo";

/// Offers an operation and calls it, each time over a new connection.
pub(crate) async fn selftest(args: SelftestArgs) -> Result<ExitCode, Failure> {
    let SelftestArgs { calls, wait, client } = args;
    let ClientArgs { hub, output } = client;
    let target = hub.target()?;
    let end = Instant::now() + wait.0;
    let spoke = retried(end, async || spoke(&target).await).await?;
    let mut slowest = Duration::ZERO;
    for n in 0..calls {
        let input = json!({ "n": n, "nonce": rand::random::<u64>().to_string() });
        let start = Instant::now();
        let answer = retried(end, async || call(&target, &input).await).await?;
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

async fn spoke(target: &Target) -> Result<Spoke, Error> {
    let echo =
        Operation::query(OPERATION, async |input: Value| Ok::<_, Refusal>(input)).description("answers its input");
    let mut builder = Spoke::builder(&target.url).name(NAME).operation(echo);
    if let Some(token) = &target.token {
        builder = builder.token(token);
    }
    if let Some(path) = &target.ca_file {
        builder = builder.ca_file(path);
    }
    builder.start().await
}

async fn call(target: &Target, input: &Value) -> Result<Value, Error> {
    let client = target.client()?;
    let answer = client.call(OPERATION, input).await;
    client.close().await;
    answer
}

/// Tries again with jitter until `end` while the hub is on its way: not there yet, not ready, or without news of the
/// spoke. A wrong key is final.
async fn retried<T>(end: Instant, mut work: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Failure> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let error = match tokio::time::timeout(left, work()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => return Err(Failure::other("the hub did not answer within --wait")),
        };
        let unknown_yet = matches!(error.code(), Some(Code::OperationNotFound | Code::NoProvider));
        if left.is_zero() || !(error.retryable() || unknown_yet || matches!(error, Error::Lost)) {
            return Err(error.into());
        }
        sleep(Duration::from_millis(rand::random_range(200..600)).min(left)).await;
    }
}
