//! Waiting on a condition with a deadline; the last status is in the message when it never comes.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `look` gives `Ok` and returns its value.
///
/// # Panics
/// When the time is up: with `what` and the last `Err`.
pub async fn until<T, S, F, Fut>(what: &str, within: Duration, mut look: F) -> T
where
    S: Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, S>>,
{
    let end = Instant::now() + within;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(status) if Instant::now() >= end => panic!("{what} did not happen within {within:?}; last: {status:?}"),
            Err(_) => sleep(INTERVAL).await,
        }
    }
}
