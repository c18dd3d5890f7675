//! RFC 6455 as a server speaks it: reads masked frames from bytes as they come in, writes unmasked ones.
//!
//! Pure: no I/O. [`Decoder::feed`] takes whatever a read brought; what it keeps between two reads is the unfinished
//! part of one message, so a connection between two messages holds no buffer.
//!
//! Invariants
//! - A length is checked against the limit before memory is set aside for it, and memory grows with what arrived, not
//!   with what was announced.
//! - A message over the limit is read away, up to [`SKIPPED`] times the limit, and costs its beginning in memory: which
//!   call it was about can be told from that. One that is larger still is a [`Violation`].
//! - Control frames may come between the fragments of a message; anything else out of order is a [`Violation`].

mod payload;
mod write;

use bytes::{Bytes, BytesMut};

use payload::{close_code, unmask};
pub(crate) use write::{first_byte, push_close, push_header, push_message, push_ping, push_pong, push_question, text};

/// Longest payload of a control frame.
const CONTROL_LIMIT: usize = 125;

/// Set aside at most this much for a frame of which only the header has arrived; kept of a message over the limit.
const RESERVE_LIMIT: usize = 16 * 1024;

/// A message is read away that is at most so many times as large as the limit.
const SKIPPED: usize = 16;

const OPCODE_CONTINUATION: u8 = 0x0;
const OPCODE_TEXT: u8 = 0x1;
const OPCODE_BINARY: u8 = 0x2;
const OPCODE_CLOSE: u8 = 0x8;
const OPCODE_PING: u8 = 0x9;
const OPCODE_PONG: u8 = 0xA;

/// Close codes that this server sends.
pub(crate) mod code {
    /// The purpose is fulfilled.
    pub(crate) const NORMAL: u16 = 1000;
    /// The server goes away.
    pub(crate) const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub(crate) const PROTOCOL: u16 = 1002;
    /// Text that is not UTF-8.
    pub(crate) const NOT_UTF8: u16 = 1007;
    /// What the peer does breaks a rule of this hub.
    pub(crate) const POLICY: u16 = 1008;
    /// A message over the limit.
    pub(crate) const TOO_LARGE: u16 = 1009;
    /// The key was revoked or has expired.
    pub(crate) const REVOKED: u16 = 4401;
    /// The spoke is suspended.
    pub(crate) const SUSPENDED: u16 = 4403;
}

/// The two kinds of message; a peer is answered in the kind of its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
}

/// What a peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A whole message.
    Message {
        /// Text or binary.
        kind: Kind,
        /// Unmasked; valid UTF-8 when `kind` is text.
        data: Bytes,
    },
    /// A whole message over the limit, of which only the beginning is left.
    TooLarge {
        /// Text or binary.
        kind: Kind,
        /// How it begins.
        head: Bytes,
        /// Its length.
        size: usize,
    },
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    /// An answer to a ping, with its payload, or a sign of life.
    Pong(Bytes),
    /// The peer ends the connection; nothing is read after it.
    Close {
        /// Its reason; 1005 when it gave none.
        code: u16,
    },
}

/// Why a connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Violation {
    /// Close code.
    pub(crate) code: u16,
    /// What the peer did, for the close frame.
    pub(crate) reason: &'static str,
}

/// Reads one connection's frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    limit: usize,
    /// Nobody reads what comes, but for control frames.
    ignores: bool,
    header: [u8; 14],
    header_have: usize,
    frame: Option<Open>,
    message: Option<(Kind, BytesMut)>,
    /// Bytes of the message as far as they are announced.
    size: usize,
    control: BytesMut,
    closed: bool,
}

/// A frame whose header is complete.
#[derive(Clone, Copy, Debug)]
struct Open {
    opcode: u8,
    last: bool,
    mask: [u8; 4],
    read: usize,
    left: usize,
}

// === impl Decoder ===

impl Decoder {
    /// A reader for messages of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            ignores: false,
            header: [0; 14],
            header_have: 0,
            frame: None,
            message: None,
            size: 0,
            control: BytesMut::new(),
            closed: false,
        }
    }

    /// Takes from the front of `input` until a message or control frame is complete or nothing is left.
    ///
    /// # Errors
    /// [`Violation`]: the connection must be closed with its code.
    pub(crate) fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Received>, Violation> {
        while !self.closed {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.take_header(input)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            if !self.take_payload(frame, input) {
                return Ok(None);
            }
            if let Some(received) = self.finish(frame)? {
                return Ok(Some(received));
            }
        }
        *input = &[];
        Ok(None)
    }

    /// Whether a message, or a frame's header, has begun and not ended.
    pub(crate) fn is_within_message(&self) -> bool {
        self.header_have > 0 || self.frame.is_some() || self.message.is_some()
    }

    /// Keeps no more of what comes than tells where each message ends.
    pub(crate) fn ignore_content(&mut self) {
        self.ignores = true;
        self.forget_tail();
    }

    /// Bytes of memory that the message takes which has begun and not ended.
    pub(crate) fn kept(&self) -> usize {
        self.message.as_ref().map_or(0, |(_, data)| data.capacity())
    }

    /// Whether part of a message or of a frame has been read.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.header_have == 0 && self.frame.is_none() && self.message.is_none() && self.control.capacity() == 0
    }

    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<Open>, Violation> {
        if !self.fill_header(2, input) {
            return Ok(None);
        }
        self.check_start()?;
        let extended = match self.header[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if !self.fill_header(2 + extended + 4, input) {
            return Ok(None);
        }
        let length = match extended {
            0 => u64::from(self.header[1] & 0x7F),
            2 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            _ => u64::from_be_bytes(self.header[2..10].try_into().expect("eight bytes")),
        };
        let mask = self.header[2 + extended..][..4].try_into().expect("four bytes");
        self.header_have = 0;
        self.open(length, mask).map(Some)
    }

    fn fill_header(&mut self, want: usize, input: &mut &[u8]) -> bool {
        let take = want.saturating_sub(self.header_have).min(input.len());
        let (taken, rest) = input.split_at(take);
        self.header[self.header_have..][..take].copy_from_slice(taken);
        self.header_have += take;
        *input = rest;
        self.header_have >= want
    }

    /// What the first two bytes alone can show to be wrong.
    fn check_start(&self) -> Result<(), Violation> {
        let [first, second] = [self.header[0], self.header[1]];
        if first & 0x70 != 0 {
            return Err(protocol("reserved bits are set and no extension was negotiated"));
        }
        if second & 0x80 == 0 {
            return Err(protocol("frames of a client must be masked"));
        }
        let last = first & 0x80 != 0;
        match first & 0x0F {
            OPCODE_CONTINUATION if self.message.is_none() => Err(protocol("continuation of no message")),
            OPCODE_TEXT | OPCODE_BINARY if self.message.is_some() => {
                Err(protocol("a new message begins before the last one ended"))
            }
            OPCODE_CONTINUATION | OPCODE_TEXT | OPCODE_BINARY => Ok(()),
            OPCODE_CLOSE | OPCODE_PING | OPCODE_PONG if !last => Err(protocol("control frames cannot be fragmented")),
            OPCODE_CLOSE | OPCODE_PING | OPCODE_PONG if usize::from(second & 0x7F) > CONTROL_LIMIT => {
                Err(protocol("control frames carry at most 125 bytes"))
            }
            OPCODE_CLOSE | OPCODE_PING | OPCODE_PONG => Ok(()),
            _ => Err(protocol("unknown opcode")),
        }
    }

    fn open(&mut self, length: u64, mask: [u8; 4]) -> Result<Open, Violation> {
        let opcode = self.header[0] & 0x0F;
        let most = self.limit.saturating_mul(SKIPPED);
        match opcode {
            OPCODE_TEXT => (self.message, self.size) = (Some((Kind::Text, BytesMut::new())), 0),
            OPCODE_BINARY => (self.message, self.size) = (Some((Kind::Binary, BytesMut::new())), 0),
            _ => {}
        }
        let left = usize::try_from(length)
            .ok()
            .filter(|length| is_control(opcode) || length.saturating_add(self.size) <= most)
            .ok_or(Violation {
                code: code::TOO_LARGE,
                reason: "message is larger than the limit",
            })?;
        if !is_control(opcode) {
            self.size += left;
            self.forget_tail();
        }
        Ok(Open {
            opcode,
            last: self.header[0] & 0x80 != 0,
            mask,
            read: 0,
            left,
        })
    }

    /// Whether only the beginning of the message is kept.
    fn is_over(&self) -> bool {
        self.size > self.limit || self.ignores
    }

    /// Keeps of a message over the limit what tells of it.
    fn forget_tail(&mut self) {
        if self.is_over()
            && let Some((_, data)) = &mut self.message
            && data.len() > RESERVE_LIMIT
        {
            *data = BytesMut::from(&data[..RESERVE_LIMIT]);
        }
    }

    /// Unmasks what has arrived of the payload; true when it is complete.
    fn take_payload(&mut self, mut frame: Open, input: &mut &[u8]) -> bool {
        let take = frame.left.min(input.len());
        let (taken, rest) = input.split_at(take);
        *input = rest;
        let over = self.is_over();
        let (target, most) = match &mut self.message {
            Some((_, data)) if !is_control(frame.opcode) && over => (data, RESERVE_LIMIT),
            Some((_, data)) if !is_control(frame.opcode) => (data, usize::MAX),
            _ => (&mut self.control, usize::MAX),
        };
        let start = target.len();
        let kept = take.min(most.saturating_sub(start));
        if target.capacity() - start < kept {
            target.reserve(kept.max(frame.left.min(RESERVE_LIMIT)));
        }
        target.extend_from_slice(&taken[..kept]);
        unmask(&mut target[start..], frame.mask, frame.read);
        frame.read += take;
        frame.left -= take;
        self.frame = Some(frame);
        frame.left == 0
    }

    fn finish(&mut self, frame: Open) -> Result<Option<Received>, Violation> {
        self.frame = None;
        if is_control(frame.opcode) {
            let payload = std::mem::take(&mut self.control).freeze();
            return match frame.opcode {
                OPCODE_PING => Ok(Some(Received::Ping(payload))),
                OPCODE_PONG => Ok(Some(Received::Pong(payload))),
                _ => {
                    self.closed = true;
                    close_code(&payload).map(|code| Some(Received::Close { code }))
                }
            };
        }
        if !frame.last {
            return Ok(None);
        }
        let Some((kind, data)) = self.message.take() else {
            return Ok(None);
        };
        let size = std::mem::take(&mut self.size);
        if size > self.limit || self.ignores {
            let head = data.freeze();
            return Ok(Some(Received::TooLarge { kind, head, size }));
        }
        if kind == Kind::Text && std::str::from_utf8(&data).is_err() {
            return Err(Violation {
                code: code::NOT_UTF8,
                reason: "text is not UTF-8",
            });
        }
        Ok(Some(Received::Message {
            kind,
            data: data.freeze(),
        }))
    }
}

fn is_control(opcode: u8) -> bool {
    opcode & 0x8 != 0
}

fn protocol(reason: &'static str) -> Violation {
    Violation {
        code: code::PROTOCOL,
        reason,
    }
}

#[cfg(test)]
mod tests;
