//! WebSocket frames (RFC 6455) for both ends of a connection: the hub as the server of its peers, and as the client of
//! another hub.
//!
//! [`Decoder`] turns bytes into messages, [`Batch`] turns messages into one write, and [`handshake`] makes and checks
//! the two values by which the ends recognize each other. `examples/echo` puts them together, in either role.
//!
//! Promises
//! - What breaks the protocol is refused with the rule that it broke, as early as it can be seen: text that is
//!   not UTF-8 at its first wrong byte.
//! - A connection between two messages costs the size of a [`Decoder`] and a [`Batch`], and no buffer.
//! - A length is checked before memory is set aside for it, and memory grows with what arrived, not with what was
//!   announced.
//! - A message is framed once for all sockets of a server, and whatever waits for one socket leaves in one vectored write.
//! - It passes Autobahn's test suite in both roles (`make autobahn`).
//!
//! Never
//! - It does not read: whoever owns the socket reads, and decides how much at once.
//! - It does not spawn, wait or log. [`Batch::poll_write`] is its only contact with a socket.
//! - It negotiates no extensions, and does not fragment what it sends.
//! - It does not know what a message or a close code means: it says which rule a peer broke, its owner has the numbers.
//!
//! Uses no other crate of alkhub.

mod batch;
mod decode;
mod encode;
mod frame;
pub mod handshake;
mod received;

pub use batch::Batch;
pub use decode::Decoder;
pub use encode::framed_text;
pub use frame::{MessageKind, Role};
pub use received::{Error, Received, Violation};
