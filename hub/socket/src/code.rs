//! Close codes that the hub sends: those of RFC 6455, and its own.

pub(crate) use alkhub_wire::code::{GOING_AWAY, NORMAL, POLICY};

/// The key was revoked or has expired.
pub(crate) const REVOKED: u16 = 4401;

/// The spoke is suspended.
pub(crate) const SUSPENDED: u16 = 4403;
