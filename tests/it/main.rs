//! Integration tests: hubs in this process on a real Postgres and a real Redis, and the project's own rules.

mod calls;
mod events;
mod failures;
mod generated;
mod keys;
mod large;
mod load;
mod make;
mod metrics;
mod moves;
mod origin;
mod outages;
mod pages;
mod properties;
mod tidy;
