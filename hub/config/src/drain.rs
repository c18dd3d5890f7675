//! How long the end of a hub may take after its calls have finished: the hub keeps to these limits, and whoever runs it
//! must wait this long before killing it.

use std::time::Duration;

/// Time for peers to answer a close.
pub const CLOSING: Duration = Duration::from_secs(5);

/// Time for the tasks of sockets that were cut off to clean up.
pub const KILLING: Duration = Duration::from_secs(1);

/// Time for tasks to end after everything was asked to end.
pub const ENDING: Duration = Duration::from_secs(10);

/// Time for the last writes to Postgres and the end of its connections.
pub const STORING: Duration = Duration::from_secs(6);

/// The total: the longest that a hub lives after `server.drain-delay` and `server.drain-timeout`.
pub const LIMIT: Duration = CLOSING
    .saturating_add(KILLING)
    .saturating_add(ENDING)
    .saturating_add(STORING);
