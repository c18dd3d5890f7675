//! Frames as this crate sends them: unfragmented, with the shortest form of the length, masked if the role requires it.

use bytes::{Bytes, BytesMut};

use crate::frame::{CONTROL_LIMIT, FIN, MASKED, MessageKind, OPCODE_CLOSE, Role, apply_mask};

/// The longest header without a mask.
const HEADER_LIMIT: usize = 10;

/// A server's frame of a text message in one piece, to be shared by all connections that send it
/// ([`Batch::framed`](crate::Batch::framed)).
pub fn framed_text(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + HEADER_LIMIT);
    push_frame(&mut out, Role::Server, MessageKind::Text.opcode(), payload);
    out.freeze()
}

/// The first byte of an unfragmented message, the only one in which text and binary differ.
pub(crate) fn first_byte(kind: MessageKind) -> u8 {
    FIN | kind.opcode()
}

/// Length of the header of a server's frame.
pub(crate) fn header_len(framed: &[u8]) -> usize {
    match framed[1] {
        126 => 4,
        127 => HEADER_LIMIT,
        _ => 2,
    }
}

/// Appends a whole frame.
pub(crate) fn push_frame(out: &mut BytesMut, role: Role, opcode: u8, payload: &[u8]) {
    let mask = role.next_mask();
    push_header(out, FIN | opcode, payload.len(), mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask, 0);
    }
}

/// Appends a close frame, cutting the reason to what fits.
pub(crate) fn push_close(out: &mut BytesMut, role: Role, code: u16, reason: &str) {
    let mut payload = [0; CONTROL_LIMIT];
    let end = reason.floor_char_boundary(CONTROL_LIMIT - 2);
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..][..end].copy_from_slice(&reason.as_bytes()[..end]);
    push_frame(out, role, OPCODE_CLOSE, &payload[..2 + end]);
}

/// Appends a header whose payload is sent separately.
pub(crate) fn push_header(out: &mut BytesMut, first: u8, length: usize, mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { MASKED } else { 0 };
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.extend_from_slice(&[first, masked | short]),
        (_, Ok(medium)) => {
            out.extend_from_slice(&[first, masked | 126]);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[first, masked | 127]);
            out.extend_from_slice(&u64::try_from(length).expect("usize has 64 bits at most").to_be_bytes());
        }
    }
    if let Some(mask) = mask {
        out.extend_from_slice(&mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_too_long_is_cut_at_a_character() {
        let mut out = BytesMut::new();

        push_close(&mut out, Role::Server, 1001, &"ü".repeat(100));

        assert_eq!(out.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&out[4..]).is_ok());
    }

    #[test]
    fn the_frames_of_the_rfc_are_written_as_there() {
        let of = |payload: &[u8]| framed_text(payload).to_vec();
        let mut masked = BytesMut::new();
        push_header(&mut masked, 0x81, 5, Some([0x37, 0xFA, 0x21, 0x3D]));
        masked.extend_from_slice(b"Hello");
        apply_mask(&mut masked[6..], [0x37, 0xFA, 0x21, 0x3D], 0);

        assert_eq!(of(b"Hello"), b"\x81\x05Hello");
        assert_eq!(masked.as_ref(), b"\x81\x85\x37\xFA\x21\x3D\x7F\x9F\x4D\x51\x58");
        assert_eq!(of(&[b' '; 256])[..4], [0x81, 0x7E, 0x01, 0x00]);
        assert_eq!(of(&[b' '; 65_536])[..10], [0x81, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
