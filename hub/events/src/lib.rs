//! Events: who wants which topic, and how an event gets to them.
//!
//! The [`Bus`] carries events from publishers to subscribers, who read them from one [`Mailbox`] per connection. With
//! Redis it reaches every hub of the prefix; without it the same API serves the one hub in this process.
//!
//! Promises
//! - A subscription that was granted is confirmed by the transport: what is published after that is seen.
//! - Nothing is lost without a sign: a reader gets an [`Item::Gap`] in its place in the order, and a counter counts it.
//! - A publisher never waits for a reader: every mailbox is bounded in events and bytes, and its oldest events give way.
//! - An event is encoded once, however many read it.
//!
//! Never
//! - It keeps no event that nobody waits for, and knows nothing of calls, keys or spokes.
//!
//! Uses `config`, `protocol`, `queue` and `redis`.

mod bus;
mod error;
mod mailbox;
mod metrics;
mod publication;
mod table;
mod target;

pub use alkhub_queue::Limits;
pub use bus::{Bus, PublishReceipt, Subscription};
pub use error::{PublishError, SubscribeError};
pub use mailbox::{Deliveries, Item, Mailbox, mailbox};
pub use publication::Publication;
