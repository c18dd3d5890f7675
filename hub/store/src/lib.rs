//! Everything alkhub keeps in Postgres: keys, spokes, operations by hash, call records. All SQL is here.
//!
//! [`Store::open`] returns at once; [`Store::prepare`] connects, migrates and keeps watch over the link. Each aggregate
//! is a view of the store ([`Store::keys`], [`Store::spokes`], [`Store::operations`], [`Store::calls`]).
//!
//! Promises
//! - Tables are never qualified: a connection sees the schema of its Hub and nothing else.
//! - Every statement on a table of ours is checked at build time against the committed `.sqlx` (`prepare.sh` writes it);
//!   those that make, enter and look at the schema are not (`migrate`, `connect`).
//! - Every remote wait has a deadline, but for a migration's work, which is watched from another connection (`migrate`);
//!   while the link is down a statement fails at once.
//! - A key of a spoke works only as long as the spoke of that name has the uid that the key was made for.
//!
//! Never
//! - It keeps no key in the clear, and no input or output of a call.
//! - It decides on nothing that is asked of a hub, and knows nothing of Redis.
//!
//! Uses `config`, `protocol`, `retry` and `tasks`.

mod actor;
mod admin_key;
mod calls;
mod connect;
mod cursor;
mod db;
mod error;
mod hasher;
mod keys;
mod link;
mod metrics;
mod migrate;
mod operations;
mod row;
mod spokes;
mod statement;
mod store;
mod watch;

pub use admin_key::AdminKey;
pub use alkhub_retry::LinkState;
pub use calls::{CallFilter, CallRow, CallRows, Mark};
pub use cursor::{Cursor, InvalidCursor};
pub use error::Error;
pub use hasher::{HashKey, InvalidHashKey, KeyHash, KeyHasher};
pub use keys::{AdminEntered, KeyRecord, Keys, NewKey};
pub use operations::Operations;
pub use spokes::{Deleted, PutOutcome, SpokeKey, SpokeRecord, Spokes};
pub use store::Store;

/// How many rows that nobody needs any more one statement deletes at most.
pub const PRUNED: i64 = 1_000;
