//! Rust SDK of alkhub: call operations, follow events, offer operations.
//!
//! [`Client`] calls, subscribes, publishes and follows events; [`Spoke`] offers operations with typed handlers. Both
//! speak the plain wire of alkhub over WebSockets and reconnect by themselves.
//!
//! ```no_run
//! # async fn example() -> Result<(), alkhub_sdk::Error> {
//! use alkhub_sdk::{Client, Failure, Operation, Spoke};
//!
//! async fn upper(text: String) -> Result<String, Failure> {
//!     Ok(text.to_uppercase())
//! }
//!
//! let upper = Operation::query("text.upper", upper);
//! let spoke = Spoke::builder("http://127.0.0.1:7420").token("alk_…").name("text").operation(upper).start().await?;
//!
//! let client = Client::builder("http://127.0.0.1:7420").token("alk_…").build()?;
//! let shout: String = client.call("text.upper", "hello").await?;
//! assert_eq!(shout, "HELLO");
//! spoke.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Promises
//! - A call that is dropped, or whose deadline passes, is aborted at the spoke.
//! - Nothing is lost in silence: an event stream that may have missed something yields a [`Gap`].
//! - A session outlives its connection where the hub keeps it (30 s unless set otherwise): calls, handlers and streams go
//!   on over the next one, and nothing of them is lost or done twice.
//! - A mutation is never sent twice: a call whose session is lost fails with [`Error::Lost`].
//!
//! Never
//! - It knows nothing of a hub but the wire and the HTTP API, as any other program does.
//! - It sets nothing for the whole process: no log, no handler of signals, no runtime.
//!
//! Uses `protocol`, `queue` and `retry`.

pub mod client;
mod endpoint;
mod error;
mod kept;
mod last_cause;
mod outbox;
#[cfg(test)]
mod panicking;
mod queue;
mod session;
mod socket;
pub mod spoke;

pub use alkhub_protocol as protocol;
pub use alkhub_protocol::frame::Gap;
pub use alkhub_protocol::{CallError, Code, Delivered, OperationKind, OperationName, RawJson, Topic, TopicFilter};

pub use client::{
    CallFilter, CallOptions, CallPage, Client, Delivery, Event, Events, Items, Outcome, Published, Streamed,
};
pub use error::{Distrust, Error};
pub use spoke::{Answer, Context, Failure, Operation, Spoke, Status};
