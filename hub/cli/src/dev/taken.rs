//! Waits for what an ending hub may still hold: a port, a folder.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a port or a folder may stay taken: a hub that was killed a moment ago takes a while to disappear.
const TAKEN_LIMIT: Duration = Duration::from_secs(3);
const TAKEN_POLL: Duration = Duration::from_millis(50);

/// Takes something that an ending hub may still hold.
pub(super) async fn untaken<T, E>(take: impl Fn() -> Result<T, E>, is_taken: impl Fn(&E) -> bool) -> Result<T, E> {
    let end = Instant::now() + TAKEN_LIMIT;
    loop {
        match take() {
            Err(error) if is_taken(&error) && Instant::now() < end => sleep(TAKEN_POLL).await,
            result => return result,
        }
    }
}
