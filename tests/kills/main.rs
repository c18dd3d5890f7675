//! What becomes of a call when a process that it needs is killed, told to end, or stands still: hubs, spokes, Redis and
//! Postgres are real processes here, and real signals end them.
//!
//! There is one file for each thing that is lost: the spoke, the hub of the caller, the hub of the spoke, the servers,
//! the hub to which a session moves. Each test checks what the caller is told and within what time; that a mutation ran
//! at most once, and as the caller was told (every run adds a line to a file, except for the peers that [`migrate`]
//! plays itself); and that new calls continue through the hubs that are left.
//!
//! Hubs are linked from pod to pod and have leases of [`stage::LEASE`], unless a test says otherwise.

mod callers_hub;
mod migrate;
mod servers;
mod spoke;
mod spokes_hub;
mod stage;
