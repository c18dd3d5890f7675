//! The SDK against a real hub on a real Postgres and a real Redis, through a proxy that fails when told to.
//!
//! The other end of each call is a bare WebSocket or plain HTTP, straight to the hub, so that the SDK is not tested
//! against itself. Whatever no hub of this version does, or does at a moment that no test can choose, is in
//! `tests/broken`.

mod calls;
mod dead;
mod events;
mod frames;
mod hashes;
mod links;
mod lists;
mod load;
mod moves;
mod offers;
mod pair;
mod sessions;
mod shutdown;
mod spoke;
mod stage;
mod subscriptions;
mod two;
