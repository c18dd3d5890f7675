//! The WebSocket surface of a hub: spokes, clients and subscribers on one socket each (docs/PROTOCOL.md).
//!
//! [`routes`] has its two paths. `upgrade` answers the handshake; from then on a socket is one task:
//!
//! | file | what |
//! |---|---|
//! | `connection` | reads, writes, and ends a socket |
//! | `conversation`, `conversation/*` | what each message means: a call, a registration, a topic |
//! | `spoke`, `subscriptions`, `tickets`, `pending` | what one peer has under way |
//! | `held` | what waits until its peer has read what came before |
//! | `entry`, `clock` | the socket among what is open, and the one beat of them all |
//!
//! Promises
//! - The hub never speaks first, and answers in the kind of message in which it was spoken to.
//! - From the moment at which the end of a socket is decided nothing more of it is read or acted on.
//! - Whatever waits for a peer, or of one, has a bound.
//!
//! Never
//! - It knows no other surface, and nothing of the process around it but [`SocketsParts`].
//! - What a payload says of its sender is not read: identity is the key's.
//!
//! It uses `edge`, `wire` (frames), and of the domain `calls`, `events` and `budget`.

mod clock;
mod code;
mod connection;
mod conversation;
mod entry;
mod held;
mod metrics;
mod pending;
mod routes;
mod session;
mod sockets;
mod spoke;
mod subscriptions;
mod tickets;
mod upgrade;

pub use routes::routes;
pub use sockets::{Sockets, SocketsParts};
