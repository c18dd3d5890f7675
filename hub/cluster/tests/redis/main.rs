//! The cluster against a real Redis: every test starts a server of its own.

mod cluster;
mod directory;
mod support;
