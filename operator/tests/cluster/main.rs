//! The operator as a process against a real API server, each test in a namespace and with a Lease of its own.
//!
//! Needs `ALKHUB_TEST_KUBECONFIG` (`cargo run -p alkhub-cluster -- up -- cargo test -p alkhub-operator`); without it the
//! tests say so and pass, with `ALKHUB_TEST_REQUIRE_CLUSTER` they fail.

#![expect(clippy::print_stdout, reason = "a skipped test says why, and figures are for people")]

mod fake;
mod harness;
mod hubs;
mod leaders;
mod rules;
mod spokes;
