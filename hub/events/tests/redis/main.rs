//! The fabric against a real Redis: every test starts a server of its own.

mod access;
mod cluster;
mod directory;
mod events;
mod outages;
mod support;
