//! The harness of the tests: hubs in one process, and what talks to them.
//!
//! Nothing of the product uses this crate, but the SDK's tests do.

pub mod cluster;
pub mod console;
pub mod http;
pub mod hubs;
pub mod keys;
pub mod kube;
pub mod links;
pub mod load;
pub mod pages;
pub mod process;
pub mod promise;
pub mod promtool;
pub mod reach;
pub mod wire;
