//! What stands in a frame: the mask taken off, and what a close frame says.

use super::{Violation, code, protocol};

/// XORs with the mask, whose phase is given by the bytes of the frame already read; eight bytes at a time.
pub(super) fn unmask(data: &mut [u8], mask: [u8; 4], read: usize) {
    let at = |i: usize| mask[(read + i) & 3];
    let word = u64::from_ne_bytes([at(0), at(1), at(2), at(3), at(0), at(1), at(2), at(3)]);
    let (words, rest) = data.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (i, byte) in rest.iter_mut().enumerate() {
        *byte ^= at(i);
    }
}

/// The code of a close frame; 1005 when it carries none.
pub(super) fn close_code(payload: &[u8]) -> Result<u16, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(1005)
        } else {
            Err(protocol("a close frame carries no or at least two bytes"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol("close code is not one that a peer may send"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation {
            code: code::NOT_UTF8,
            reason: "the reason for closing is not UTF-8",
        });
    }
    Ok(code)
}
