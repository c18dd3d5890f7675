//! How a call finds its spoke, and its answer the caller.
//!
//! A surface decodes a request and calls [`Calls::dispatch`] (or [`Calls::call`], [`Calls::subscribe`]); a connection
//! becomes a spoke's instance by [`Calls::register`] and hands what the spoke says to its [`Registration`].
//!
//! Promises
//! - The call path reads nothing remote: the directory and the specifications are in memory.
//! - At most once: a call that may have reached a spoke is never sent again, and an error says what is known of it.
//! - A call is forwarded between hubs once; a hub that does not hold the instance answers `moved`.
//! - Each call ends once, by its answer, its deadline, an abort, or the loss of its spoke or of its hub.
//! - Payloads are carried as bytes; only a schema check parses them.
//!
//! Never
//! - It names no status code, header, socket or custom resource, and does no I/O but through `store` and `cluster`.
//!
//! Uses `budget`, `cluster`, `config`, `protocol`, `queue`, `retry`, `schema`, `store` and `tasks`.
//!
//! | module | what |
//! |---|---|
//! | `admission` | whether a call may be made: rights, input, limits |
//! | `directory` | who offers what, in memory: pools, the choice of an instance, specifications, lists |
//! | `leg` | the running calls: placement, answers, departures, dispatch |
//! | `session` | the instances on this hub, their outboxes, and sessions that move |
//! | `register` | how a connection becomes an instance |
//! | `relay` | calls and answers between hubs |
//! | `records` | what is written of ended calls |
//!
//! `assembly` puts the parts together (docs/decisions/0058); [`Calls`] is their handle.

mod admission;
mod assembly;
mod builtin;
mod caller;
mod calls;
mod directory;
#[cfg(test)]
mod fixture;
mod leg;
mod metrics;
mod records;
mod register;
mod relay;
pub mod roster;
mod session;

pub use admission::prepared::PreparedCall;
pub use alkhub_queue::{Full, Limits, WrongCount};
pub use assembly::Parts;
pub use caller::{Caller, SpokePolicy};
pub use calls::Calls;
pub use directory::connected::Connected;
pub use directory::list::{ListQuery, OperationPage};
pub use leg::reply::{CallAnswer, Reply};
pub use leg::ticket::{Items, Ticket};
pub use metrics::CallTotals;
pub use register::takeover::HeldInstance;
pub use session::message::SessionMessage;
pub use session::moves::{Moves, SessionEvent, TunnelId};
pub use session::outbox::{DeliveryState, Outbox, Outgoing, OutgoingItem, PassedKind, PassedMessage, outbox};
pub use session::{OccupiedSlots, Registration};
