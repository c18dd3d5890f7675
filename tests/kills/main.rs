//! What becomes of a call when a process that it needs is killed, told to end, or stands still: hubs, spokes, Redis and
//! Postgres are real processes here, and real signals end them.
//!
//! One file for what is lost: the spoke, the hub of the caller, the hub of the spoke, the servers, the hub that a session
//! moves to. Each test says what the caller is told and within what time, that a mutation ran at most once and as it was
//! told (every run is a line of a file, but for the peers that [`migrate`] plays itself), and that new calls go on through the hubs that are left.
//!
//! Hubs are linked from pod to pod and have leases of [`stage::LEASE`], unless a test says otherwise.

mod callers_hub;
mod migrate;
mod servers;
mod spoke;
mod spokes_hub;
mod stage;
