//! The link to Redis: everything that this hub sends there and everything that comes from there.
//!
//! A [`Connector`] is one hub's link before it starts. The bus and the cluster take their [`Redis`] from it and set the
//! receivers ([`TopicTable`], [`HubReceiver`]); then it runs until the end of the hub. Without a URL it starts nothing,
//! and there is no [`Redis`] to take.
//!
//! An *incarnation* is one life of the link: a connection that only receives, and one for everything else. When either
//! is lost, both end, and the next incarnation subscribes everything anew before the link is up.
//!
//! Promises
//! - Starting never waits for Redis. The link comes up in the background, and keeps trying until the end.
//! - While the link is down every request fails at once; each can be tried again. Every wait ends in `events.timeout`.
//! - Nothing is lost without a sign: each topic is called resumed where a loss with the last incarnation ends, a
//!   relayed message that nobody received comes back, and a counter counts both.
//! - What waits, to be sent or to be received, is bounded in messages and in bytes.
//! - Every name in Redis is spelled in `channel.rs`.
//!
//! Never
//! - It knows no subscriber, no event's content and no record of the directory: those are the crates above.
//! - No type of the redis crate leaves it, but for the error that a server refused with.
//!
//! Uses `config`, `protocol`, `retry` and `tasks`. Sentinel and Cluster join `topology.rs`.

mod bundle;
mod channel;
mod connector;
mod error;
mod handle;
mod incarnation;
mod keeper;
mod link;
mod members;
mod metrics;
mod probe;
mod publisher;
mod reader;
mod receive;
mod scripts;
mod subscriber;
mod topology;

pub use alkhub_retry::LinkState;
pub use connector::Connector;
pub use error::{Error, SetupError, Unconfirmed};
pub use handle::Redis;
pub use incarnation::Incarnation;
pub use link::LinkHold;
pub use members::{MemberExchange, StoredMembers};
pub use metrics::dropped;
pub use receive::{Expiry, HubReceiver, Idle, TopicTable, Undelivered};
pub use scripts::{DirectoryPlace, DirectoryRecord, DirectoryWrite, LeaseRenewal, Renewed, StoredDirectory, Written};
