//! What both directions share about frames: their kinds, who sends them, and the mask.

/// Longest payload of a control frame.
pub(crate) const CONTROL_LIMIT: usize = 125;

pub(crate) const OPCODE_CONTINUATION: u8 = 0x0;
pub(crate) const OPCODE_TEXT: u8 = 0x1;
pub(crate) const OPCODE_BINARY: u8 = 0x2;
pub(crate) const OPCODE_CLOSE: u8 = 0x8;
pub(crate) const OPCODE_PING: u8 = 0x9;
pub(crate) const OPCODE_PONG: u8 = 0xA;

/// The first bit of a frame's first byte: the message ends with it.
pub(crate) const FIN: u8 = 0x80;

/// The first bit of a frame's second byte: the payload is masked.
pub(crate) const MASKED: u8 = 0x80;

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads masked frames, writes unmasked ones.
    Server,
    /// Reads unmasked frames, writes masked ones.
    Client,
}

/// The two kinds of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
}

// === impl Role ===

impl Role {
    /// The mask of the next frame that this end sends. A client's must be unpredictable (RFC 6455, section 5.3).
    pub(crate) fn next_mask(self) -> Option<[u8; 4]> {
        match self {
            Self::Server => None,
            Self::Client => Some(rand::random()),
        }
    }
}

// === impl MessageKind ===

impl MessageKind {
    pub(crate) fn opcode(self) -> u8 {
        match self {
            Self::Text => OPCODE_TEXT,
            Self::Binary => OPCODE_BINARY,
        }
    }
}

pub(crate) fn is_control(opcode: u8) -> bool {
    opcode & 0x8 != 0
}

/// XORs with the mask, which both applies and removes it, eight bytes at a time. `at` is the position of `data` in the
/// frame's payload.
pub(crate) fn apply_mask(data: &mut [u8], mask: [u8; 4], at: usize) {
    let byte = |i: usize| mask[(at + i) & 3];
    let word = u64::from_ne_bytes([byte(0), byte(1), byte(2), byte(3), byte(0), byte(1), byte(2), byte(3)]);
    let (words, rest) = data.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (i, last) in rest.iter_mut().enumerate() {
        *last ^= byte(i);
    }
}
