//! The WebSocket surface: upgrade, frames, and what spokes and clients say over them.
//!
//! `upgrade` answers the handshake, `connection` is the task of one socket (reading, writing, pings), `conversation`
//! what is said on it; `frame` and `batch` are the bytes, `held` what waits for the peer, `entry` the socket as what is open asks
//! it, `clock` the one beat of them all.

mod batch;
mod clock;
mod connection;
mod conversation;
mod entry;
mod frame;
mod held;
mod pending;
mod spoke;
mod subscriptions;
mod tickets;
mod upgrade;

pub(crate) use clock::Clock;
pub(crate) use upgrade::upgrade;
