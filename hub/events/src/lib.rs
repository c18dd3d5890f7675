//! Events, presence and everything else that alkhub keeps in Redis.
//!
//! [`Fabric`] is the whole of it: its [`Bus`] carries events between publishers and subscribers, its [`Cluster`] what
//! the hubs of one prefix tell each other (leases, the directory of instances, relayed calls, revoked keys). With a
//! Redis URL both reach every hub of the prefix; without one the same API serves the one hub in this process.
//!
//! Invariants
//! - Nothing is lost without a sign: a subscriber gets a [`Item::Gap`] in its place in the order, a relayed message
//!   comes back through [`Cluster::undeliverable`] or the link goes [`LinkState::Down`], a counter counts both.
//! - A subscription that was granted is confirmed by the transport: what is published after that is seen.
//! - Starting never waits for Redis. The link comes up in the background, and keeps trying until the end.
//! - Every name in Redis is spelled in `channel.rs`.

mod bus;
mod channel;
mod cluster;
mod error;
mod fabric;
mod mailbox;
mod metrics;
mod publication;
mod target;

pub use alkhub_tasks::Supervisor;
pub use bus::{Bus, Published, Subscription};
pub use cluster::{
    Claim, Cluster, DirectoryChange, DirectoryEntry, Fence, Inbound, Inbox, KeyChange, Lease, OfferedOperation,
    Undelivered,
};
pub use error::{Error, PublishError};
pub use fabric::{Fabric, LinkState};
pub use mailbox::{Deliveries, Item, Lag, Limits, Mailbox, mailbox};
pub use publication::Publication;
