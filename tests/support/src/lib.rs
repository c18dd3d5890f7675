//! What the tests of every crate share: waiting on conditions, what a part of a hub lives on, ports, a Redis of one's own, a
//! TCP proxy that fails when told to, the commands of the pages, and skipping aloud.
//!
//! Promises
//! - What goes wrong is a test's failure: these functions panic, and say what was seen last.
//! - A wait ends at its deadline; what was started for a test ends with it.
//!
//! Never
//! - It is no part of what runs in production: a development dependency only.
//!
//! Uses no other crate of alkhub, so that the lowest layer can use it.

mod host;
pub mod pages;
mod port;
pub mod process;
mod proxy;
mod redis;
mod skip;
mod wait;

pub use self::host::Host;
pub use self::port::Port;
pub use self::proxy::{Direction, Proxy, Recording, Said};
pub use self::redis::RedisServer;
pub use self::skip::skip;
pub use self::wait::{PATIENCE, comes_to, pause, try_until_within, until, until_full, until_within, within};
