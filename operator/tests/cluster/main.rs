//! The operator as a process against a real API server, each test in a namespace and with a Lease of its own.
//!
//! The tests need the cluster that `ALKHUB_TEST_KUBECONFIG` names, and are ignored elsewhere: `make harness` boots one
//! and runs them.

#![expect(clippy::print_stdout, reason = "figures are for people")]

mod fake;
mod faults;
mod fleet;
mod harness;
mod horizontal;
mod hubs;
mod installs;
mod keys;
mod leaders;
mod managed;
mod metrics_api;
mod real;
mod revisions;
mod rules;
mod scaling;
mod spokes;
