//! Close codes of RFC 6455, section 7.4.1.

use crate::decode::Violation;

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

/// The code in a close frame; [`NO_STATUS`] when it carries none.
pub(crate) fn of_close(payload: &[u8]) -> Result<u16, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(NO_STATUS)
        } else {
            Err(Violation::protocol("a close frame carries no or at least two bytes"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::protocol("close code is not one that a peer may send"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation {
            code: NOT_UTF8,
            reason: "the reason for closing is not UTF-8",
        });
    }
    Ok(code)
}
