//! Directory, router, sessions and relay: how a call finds its spoke, and its answer the caller.
//!
//! A surface decodes a request and calls [`Calls::dispatch`] (or [`Calls::call`], [`Calls::subscribe`]); a connection
//! becomes a spoke's instance by [`Calls::register`] and hands what the spoke says to its [`Session`].
//!
//! Invariants
//! - The call path reads nothing remote: the directory and the specifications are in memory.
//! - A call is forwarded between hubs once; a hub that does not hold the instance answers `moved`.
//! - A call that may have reached a spoke is never sent again.
//! - An entry of the pending table leaves by reply, abort or deadline, and by nothing else.
//! - Payloads are carried as bytes; only a schema check parses them.

mod answer;
mod builtin;
mod call;
mod caller;
mod calls;
mod compare;
mod compiled;
mod core;
mod directory;
mod dispatch;
mod envelope;
mod fair;
mod feed;
#[cfg(test)]
mod fixture;
mod housekeeping;
mod input;
mod lane;
mod late;
mod link;
pub mod list;
mod lost;
mod metrics;
mod names;
mod operation;
pub mod outbox;
mod pending;
mod presence;
mod records;
mod register;
mod relay;
mod reply;
mod resend;
pub mod roster;
mod router;
mod schema;
mod serve;
mod session;
mod sink;
mod specs;
mod strays;
mod wheel;

pub use caller::{Caller, SpokePolicy};
pub use calls::{Calls, Connected, Items, Parts, Ticket};
pub use list::{ListQuery, OperationPage};
pub use outbox::{Full, Limits, Outbox, Outgoing, OutgoingItem, outbox};
pub use reply::{Answer, Reply};
pub use schema::{InvalidSchema, check_schema};
pub use session::{Connection, Session};
