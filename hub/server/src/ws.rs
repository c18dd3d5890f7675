//! The WebSocket surface: upgrade, frames, and what spokes and clients say over them.
//!
//! `upgrade` answers the handshake, `connection` is the task of one socket (reading, writing, pings), `conversation`
//! what is said on it; `held` is what waits for the peer, `entry` the socket as what is open asks it, `clock` the one beat of
//! them all. The bytes of frames are `alkhub_wire`'s.

mod clock;
mod code;
mod connection;
mod conversation;
mod entry;
mod held;
mod pending;
mod spoke;
mod subscriptions;
mod tickets;
mod upgrade;

pub(crate) use clock::Clock;
pub(crate) use upgrade::upgrade;
