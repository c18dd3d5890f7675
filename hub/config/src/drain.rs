//! What the end of a hub may take after its calls have finished: the hub keeps these limits, and whoever runs it must
//! give it this long before it is killed.

use std::time::Duration;

/// Time for peers to answer a close.
pub const CLOSING: Duration = Duration::from_secs(5);

/// Time for the tasks of sockets that were cut off to tidy up.
pub const KILLING: Duration = Duration::from_secs(1);

/// Time for tasks to end after everything was asked to.
pub const ENDING: Duration = Duration::from_secs(10);

/// Time for the last writes to Postgres and the end of its connections.
pub const STORING: Duration = Duration::from_secs(6);

/// All of it: the longest that a hub lives after `server.drain-delay` and `server.drain-timeout`.
pub const LIMIT: Duration = CLOSING
    .saturating_add(KILLING)
    .saturating_add(ENDING)
    .saturating_add(STORING);
