//! Frames of the server's side: unmasked, unfragmented, with the shortest length that fits.

use bytes::{Bytes, BytesMut};

use super::{CONTROL_LIMIT, Kind, OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG, OPCODE_TEXT};

/// Appends a message's frame.
pub(crate) fn push_message(out: &mut BytesMut, kind: Kind, payload: &[u8]) {
    push_header(out, kind, payload.len());
    out.extend_from_slice(payload);
}

/// Appends the header of a message whose payload follows by other means.
pub(crate) fn push_header(out: &mut BytesMut, kind: Kind, length: usize) {
    let opcode = match kind {
        Kind::Text => OPCODE_TEXT,
        Kind::Binary => OPCODE_BINARY,
    };
    push_start(out, opcode, length);
}

/// A text message as one piece, to be shared by all connections that send it.
pub(crate) fn text(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    push_message(&mut out, Kind::Text, payload);
    out.freeze()
}

/// First byte of an unfragmented message, the only one in which text and binary differ.
pub(crate) fn first_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Text => 0x80 | OPCODE_TEXT,
        Kind::Binary => 0x80 | OPCODE_BINARY,
    }
}

/// Appends a ping without a payload.
pub(crate) fn push_ping(out: &mut BytesMut) {
    push_start(out, OPCODE_PING, 0);
}

/// Appends a ping with a payload by which its answer is known.
pub(crate) fn push_question(out: &mut BytesMut, payload: &[u8; 8]) {
    push_start(out, OPCODE_PING, payload.len());
    out.extend_from_slice(payload);
}

/// Appends the answer to a ping.
pub(crate) fn push_pong(out: &mut BytesMut, payload: &[u8]) {
    push_start(out, OPCODE_PONG, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a close frame; the reason is cut to what fits.
pub(crate) fn push_close(out: &mut BytesMut, code: u16, reason: &str) {
    let mut end = reason.len().min(CONTROL_LIMIT - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    push_start(out, OPCODE_CLOSE, 2 + end);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

pub(super) fn push_start(out: &mut BytesMut, opcode: u8, length: usize) {
    let first = 0x80 | opcode;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.extend_from_slice(&[first, short]),
        (_, Ok(medium)) => {
            out.extend_from_slice(&[first, 126]);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[first, 127]);
            out.extend_from_slice(&u64::try_from(length).expect("usize has 64 bits at most").to_be_bytes());
        }
    }
}
