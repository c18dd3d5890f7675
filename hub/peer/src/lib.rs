//! The links from pod to pod: one WebSocket for each two hubs, beside their link to Redis.
//!
//! A [`PeerConnector`] is a hub's side of them before it starts. [`PeerLinks`] is the handle: it sends messages to the
//! hubs to which there is a link, and is told which hubs there are. What comes is passed to the [`PeerReceiver`].
//!
//! Promises
//! - The hub with the smaller id dials the other one, and again after each loss, with a back-off; so there is one link for
//!   each two. A link that is made anew takes the place of the one before.
//! - Who has no proof of the secret that the hubs share learns nothing and is heard by nobody. The secret itself never
//!   travels, and under TLS the proof holds for this one connection alone.
//! - Each link has one task, which reads, writes and looks after it. What waits for one hub is bounded in bytes and in
//!   messages, and holds up no other.
//! - A link on which nothing comes, or to which nothing can be written, for three pings is given up.
//!
//! Never
//! - It does not know whether a message arrived: a link that breaks loses what was on its way. Who needs to know is above.
//! - It reads no message.
//!
//! Uses `protocol`, `queue`, `retry`, `tasks` and `wire`.

mod accept;
mod address;
mod connector;
mod dial;
mod error;
mod frames;
mod greeting;
mod link;
mod links;
mod metrics;
mod opening;
mod receiver;
mod secret;
mod tls;

pub use address::{InvalidPeerAddress, PeerAddress};
pub use connector::{PeerConnector, PeerSetup};
pub use link::NotCarried;
pub use links::PeerLinks;
pub use receiver::PeerReceiver;
pub use secret::PeerSecret;
