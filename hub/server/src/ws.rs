//! The WebSocket surface: upgrade, frames, and what spokes and clients say over them.
//!
//! `upgrade` answers the handshake, `connection` is the task of one socket (reading, writing, pings), `conversation`
//! what is said on it; `frame` and `batch` are the bytes, `held` what waits for the peer, `sockets` knows every open one.

mod batch;
mod connection;
mod conversation;
mod frame;
mod held;
mod pending;
mod sockets;
mod spoke;
mod subscriptions;
mod tickets;
mod upgrade;

pub(crate) use connection::DRAINING;
pub(crate) use frame::code;
pub(crate) use sockets::{Sockets, Times};
pub(crate) use subscriptions::cost;
pub(crate) use upgrade::upgrade;
