//! The store against a real Postgres: one server for the whole binary, a database for each test.

mod calls;
mod fixture;
mod keys;
mod link;
mod migration;
mod operations;
mod plans;
mod schema;
mod spokes;
mod tls;
