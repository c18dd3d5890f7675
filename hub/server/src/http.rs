//! The handlers: each extracts, authorizes, calls one function and encodes.

pub(crate) mod calls;
pub(crate) mod document;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod hub;
pub(crate) mod keys;
pub(crate) mod operations;
pub(crate) mod spokes;
