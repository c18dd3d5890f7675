//! Calls as surfaces and spokes see them: spokes are driven through their outbox and their session.
//!
//! Most run on one hub with events in process and no database, on paused time. What needs real Redis or Postgres
//! starts its own.

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
