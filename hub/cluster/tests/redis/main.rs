//! The cluster against a real Redis: every test starts a server of its own.

mod carriers;
mod cluster;
mod directory;
mod members;
mod support;
