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
//! Uses the crates of layers 0 to 2. The parts, in the order in which they use each other: `call`, `sink`, `table`,
//! `placement`, `answer`, `departure`, then `dispatch`, `peers` and `register`; `assembly` puts them together (docs/decisions/0058).

mod admission;
mod answer;
mod arrivals;
mod assembly;
mod builtin;
mod call;
mod call_id;
mod caller;
mod calls;
mod compiled;
mod departure;
mod directory;
mod dispatch;
mod envelope;
mod feed;
#[cfg(test)]
mod fixture;
mod housekeeping;
mod input;
mod journal;
mod lane;
mod late;
pub mod list;
mod metrics;
mod missed;
mod moves;
mod names;
mod operation;
pub mod outbox;
mod outcome;
mod peers;
mod pending;
mod placement;
mod prepared;
mod presence;
mod quota;
mod records;
mod register;
mod relay;
mod reply;
pub mod roster;
mod router;
mod session;
mod session_message;
mod sessions;
mod sink;
mod specs;
mod table;
mod visibility;
mod wheel;

pub use alkhub_hub_cluster::NotSent;
pub use alkhub_queue::{Full, Limits, WrongCount};
pub use assembly::Parts;
pub use caller::{Caller, SpokePolicy};
pub use calls::{Calls, Connected, Items, Ticket};
pub use list::{ListQuery, OperationPage};
pub use moves::{Moves, SessionEvent};
pub use outbox::{LeftOver, Outbox, Outgoing, OutgoingItem, Said, SaidKind, outbox};
pub use prepared::PreparedCall;
pub use register::takeover::HeldInstance;
pub use reply::{CallAnswer, Reply};
pub use session::{OccupiedSlots, Registration};
pub use session_message::SessionMessage;
