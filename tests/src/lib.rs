//! The harness of the tests: hubs in one process, real servers beside them, and waiting.
//!
//! Nothing of the product uses this crate.

pub mod cluster;
pub mod http;
pub mod process;
pub mod promtool;
pub mod redis;
pub mod wait;
pub mod wire;
