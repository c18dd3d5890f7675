//! The bus against a real Redis: every test starts a server of its own.

mod access;
mod events;
mod outages;
mod support;
