//! JSON Schemas of operations: compiled once, within a memory budget; values are checked against them at a bounded
//! cost.
//!
//! [`Check::prepare`] compiles a schema as it comes with a registration: it reads what TypeBox and older drafts write
//! (`dialect`, `undefined`), refuses what no check could bound (`shape`) and counts the memory. [`Check::check`] checks
//! a value as it was written. [`cache::Cache`] keeps compiled schemas by their hash.
//!
//! Promises
//! - A check costs no more than the size of the value allows, whatever the schema: steps, stack and the time of patterns
//!   are metered (`meter`), and `shape` refuses at registration what the meter could not see.
//! - A schema takes no more memory than was counted, and compiling it no more than about a second of CPU.
//! - A payload is parsed only where its schema can refuse something; what is parsed has no second member of one name, so
//!   that what was checked is what its reader gets.
//! - Numbers are never rounded in silence: their equality is exact, and a limit is not compared with a number that 64
//!   bits would round.
//!
//! Never
//! - It does no I/O: a reference that leaves the schema is refused, not fetched.
//! - It repeats nothing of a payload but the path to its fault.
//! - It does not know what an operation, a call or a setting is.
//!
//! Uses `protocol`.

pub mod cache;
mod check;
mod compile;
mod dialect;
mod equality;
mod error;
mod fair;
mod keywords;
mod meter;
mod metrics;
mod number;
mod shape;
mod undefined;
mod view;
mod violation;

pub use check::{Check, Compiled, Prepared, Side, check_schema};
pub use error::Error;
pub use shape::ShapeError;
pub use undefined::Nothing;
pub use violation::Violation;
