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
//! | `session`, `resumable`, `waiting` | what outlives a connection, and how its peer comes back to it |
//! | `moves`, `claims`, `asked_hubs`, `coming`, `unanswered`, `arrivals`, `departures`, `handover`, `tunnel`, `left` | the same from one hub to another |
//! | `entry`, `times`, `mobility`, `clock` | the socket among what is open, its times, whether it is to go, and the one beat of all |
//! | `door`, `balancer` | which peers this hub takes, and which it lets go for other hubs |
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
//! Uses `edge`, `balance` (the rule), `config`, `protocol`, `queue`, `wire` (frames), and of the domain `budget`, `calls` and
//! `events`.

mod arrivals;
mod asked_hubs;
mod balancer;
mod claims;
mod clock;
mod code;
mod coming;
mod connection;
mod conversation;
mod departures;
mod door;
mod entry;
mod handover;
mod held;
mod left;
mod metrics;
mod mobility;
mod moves;
mod pending;
mod resumable;
mod routes;
mod session;
mod signs;
mod sockets;
mod spoke;
mod subscriptions;
mod tickets;
mod times;
mod tunnel;
mod unanswered;
mod upgrade;
mod waiting;

pub use metrics::ReturnTotals;
pub use moves::attend;
pub use routes::routes;
pub use sockets::{Passing, Sockets, SocketsParts};
