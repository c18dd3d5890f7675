//! Private servers on this machine's Postgres.

mod server;
