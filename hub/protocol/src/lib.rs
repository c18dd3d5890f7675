//! The wire of alkhub: what spokes, clients, hubs and the operator send each other.
//!
//! Types and their JSON form. The origin's frames are read and written unchanged ([`frame`]); whatever alkhub adds is
//! optional, and the origin's processes ignore it.
//!
//! Promises
//! - A payload is carried as the bytes that arrived ([`RawJson`]) and never written again on the way.
//! - Every name, scope and key is checked where it enters; a value of these types is well formed.
//!
//! Never
//! - It does no I/O, and knows no runtime and no server.
//! - It acts on no message: what one leads to is for its reader.
//!
//! Uses no other crate of alkhub.

pub mod admin;
pub mod answer;
pub mod call;
pub mod chain;
pub mod close;
pub mod envelope;
pub mod error;
pub mod frame;
pub mod header;
pub mod id;
pub mod json;
pub mod key;
pub mod kubernetes;
pub mod operation;
pub mod register;
pub mod scope;
pub mod spec_hash;
pub mod text;
pub mod time;
pub mod topic;

pub use answer::Answer;
pub use call::{CallRequest, CallStatus, Delivered, OnDisconnect};
pub use chain::Chain;
pub use close::CloseCode;
pub use envelope::Envelope;
pub use error::{CallError, Code, Problem};
pub use frame::{Dialect, Frame};
pub use id::{HubId, InstanceId, OperationName, RequestId, SpokeName};
pub use json::RawJson;
pub use key::ApiKey;
pub use operation::{OperationKind, OperationSpec};
pub use scope::Scopes;
pub use spec_hash::SpecHash;
pub use topic::{Topic, TopicFilter};

/// Largest payload of a call or an event, in bytes.
pub const PAYLOAD_LIMIT_BYTES: usize = 1024 * 1024;

/// Largest frame or message, in bytes: a full payload and the envelope around it.
pub const FRAME_LIMIT_BYTES: usize = PAYLOAD_LIMIT_BYTES + 64 * 1024;

/// The most entries in one page of a list.
pub const PAGE_LIMIT: u32 = 1_000;

/// The size of a page, roughly, in bytes: a larger entry makes a page of its own.
pub const PAGE_BYTES: usize = 512 * 1024;

/// The deepest nesting of arrays and objects in a value from a peer.
pub const DEPTH_LIMIT: usize = 64;

/// The deepest nesting of a whole message: the deepest value, plus what hubs put around it. A hub sends nothing that
/// its peers, or other hubs, would have to refuse.
pub const FRAME_DEPTH_LIMIT: usize = DEPTH_LIMIT + 8;
