//! Calls as surfaces and spokes see them: spokes are driven through their outbox and their session.
//!
//! Most tests run on one hub, with events in process and no database, in paused time. Tests that need a real Redis or
//! Postgres start their own.

mod calling;
mod churn;
mod crossing;
mod deadlines;
mod fixture;
mod hashes;
mod hubs;
mod late;
mod linked;
mod links;
mod lists;
mod loss;
mod pair;
mod postgres;
mod registering;
mod sessions;
mod speed;
mod subscriptions;
mod updates;
mod visible;
