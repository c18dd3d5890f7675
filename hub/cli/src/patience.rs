//! Makes a request again when nobody took the connection: for a moment after a pod has died, its Service leads there.
//!
//! Invariants
//! - Only a request that cannot have been sent is made again: a mutation runs at most once.
//! - No attempt begins after 5 s, or after the time limit of the command.
//! - A name that does not resolve and a certificate that is not trusted are told at once: waiting mends neither.

use std::time::Duration;

use alkhub_retry::Backoff;
use alkhub_sdk::Error;
use tokio::time::{Instant, sleep_until};

use crate::failure::chain;
use crate::output;

/// How long a request is made again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who waits longer than this is told why.
const QUIET: Duration = Duration::from_secs(1);

/// Pauses between the attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// Makes a request, again while nobody takes the connection.
pub(crate) async fn patient<T>(mut request: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    within(None, async |_| request().await).await
}

/// The same under a time limit. The request is given what is left of it.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    mut request: impl AsyncFnMut(Option<Duration>) -> Result<T, Error>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let end = begin + limit.map_or(PATIENCE, |limit| limit.min(PATIENCE));
    let (mut backoff, mut left, mut is_told) = (BACKOFF, limit, false);
    loop {
        let error = match request(left).await {
            Err(error) if error.nobody_listens() => error,
            answer => return answer,
        };
        let next = Instant::now() + backoff.pause();
        if next >= end {
            return Err(error);
        }
        if !is_told && next - begin > QUIET {
            output::note(&format!("{}; it is tried again", chain(&error)));
            is_told = true;
        }
        sleep_until(next).await;
        left = limit.map(|limit| limit.saturating_sub(begin.elapsed()));
    }
}
