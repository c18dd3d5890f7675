//! Close codes of RFC 6455, section 7.4.1.

/// The purpose is fulfilled.
pub const NORMAL: u16 = 1000;
/// This end goes away.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke the protocol.
pub const PROTOCOL: u16 = 1002;
/// The peer gave no code. Never sent.
pub const NO_STATUS: u16 = 1005;
/// Text that is not UTF-8.
pub const NOT_UTF8: u16 = 1007;
/// What the peer does breaks a rule of this end.
pub const POLICY: u16 = 1008;
/// A message over the limit.
pub const TOO_LARGE: u16 = 1009;
