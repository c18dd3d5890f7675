//! What the hubs of one prefix tell each other: who is there, which instance is where, relayed messages, revoked keys.
//!
//! [`Cluster`] is the whole of it. Without Redis the same API serves the one hub in this process.
//!
//! Promises
//! - The state of this hub (its lease, its directory entries) is kept here and asserted again whenever Redis may have
//!   lost it; Redis is never the only one to know it.
//! - Of two records of an instance every hub takes the same: the one with the higher [`Fence`].
//! - What one hub sends to another arrives once and in order, or both see a break ([`PeerEvent::Broken`]).
//! - A hub is gone when its lease and the link to it are.
//! - No revocation of a key is lost: it is sent until Redis has it, or every hub checks all keys again.
//! - A reader never holds up the link to Redis. What a receiver is asked for twice is given once, and closed the second time.
//!
//! Never
//! - It reads no relayed message, and decides on no call.
//!
//! Uses `budget`, `config`, `peer`, `protocol`, `redis` and `tasks`. The only ways to other hubs are in `carrier.rs`.

mod carrier;
mod cluster;
mod conduit;
mod directory;
mod entry;
mod error;
mod inbox;
mod keys;
mod lease;
mod leases;
mod linked;
mod members;
mod metrics;
mod once;
mod others;
mod receiver;
mod renewal;

pub use alkhub_peer::{PeerAddress, PeerSecret, PeerSetup};
pub use alkhub_redis::LinkState;
pub use carrier::NotSent;
pub use cluster::Cluster;
pub use conduit::{Class, Conduits, Incoming, PeerEvent};
pub use directory::DirectoryChanges;
pub use entry::{DirectoryChange, DirectoryEntry, FeedMark, Fence, OfferedOperation};
pub use error::Error;
pub use keys::KeyChange;
pub use lease::Lease;
pub use leases::PrefixReservation;
pub use members::{DrainMark, MemberRecord, MemberRecords};
