//! What one write takes to a socket: everything that was queued, in as few pieces as possible.
//!
//! Small frames are copied together; large payloads and a single shared frame are sent as they are. All pieces leave in
//! one vectored write. A client's payloads are masked, each with a mask of its own; those that cannot be masked in
//! place are copied.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::encode;
use crate::frame::{CONTROL_LIMIT, MessageKind, OPCODE_PING, OPCODE_PONG, Role, apply_mask};

/// Payloads of at least this size are not copied.
const LARGE: usize = 4 * 1024;

/// How many pieces one vectored write has.
const PIECES: usize = 16;

/// Frames on their way to one socket.
#[derive(Debug)]
pub struct Batch {
    role: Role,
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
    unflushed: bool,
}

// === impl Batch ===

impl Batch {
    /// An empty batch of frames from `role`.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            bytes: 0,
            unflushed: false,
        }
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits, not even a flush.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0 && !self.unflushed
    }

    /// Adds a message that has no frame yet; text must be UTF-8.
    pub fn message(&mut self, kind: MessageKind, payload: Bytes) {
        if payload.len() < LARGE {
            self.frame(kind.opcode(), &payload);
            return;
        }
        let mask = self.role.next_mask();
        self.append(|tail| encode::push_header(tail, encode::first_byte(kind), payload.len(), mask));
        self.piece(match mask {
            None => payload,
            Some(mask) => {
                // Not copied if nobody else has it.
                let mut payload = BytesMut::from(payload);
                apply_mask(&mut payload, mask, 0);
                payload.freeze()
            }
        });
    }

    /// Adds a text message that is framed already ([`framed_text`](crate::framed_text)) and shared with other
    /// connections; its payload is sent as `kind`.
    pub fn framed(&mut self, kind: MessageKind, framed: Bytes) {
        let alone = self.bytes == 0 && kind == MessageKind::Text;
        if self.role == Role::Client {
            self.message(kind, framed.slice(encode::header_len(&framed)..));
        } else if alone {
            self.piece(framed);
        } else if framed.len() < LARGE {
            let start = self.tail.len();
            self.append(|tail| tail.extend_from_slice(&framed));
            self.tail[start] = encode::first_byte(kind);
        } else {
            self.append(|tail| tail.extend_from_slice(&[encode::first_byte(kind)]));
            self.piece(framed.slice(1..));
        }
    }

    /// Adds a ping, with at most 125 bytes of the payload.
    pub fn ping(&mut self, payload: &[u8]) {
        self.frame(OPCODE_PING, &payload[..payload.len().min(CONTROL_LIMIT)]);
    }

    /// Adds the answer to a ping, with at most 125 bytes of the payload.
    pub fn pong(&mut self, payload: &[u8]) {
        self.frame(OPCODE_PONG, &payload[..payload.len().min(CONTROL_LIMIT)]);
    }

    /// Adds a close frame, with at most 123 bytes of the reason. Nothing may be added after it.
    pub fn close(&mut self, code: u16, reason: &str) {
        let role = self.role;
        self.append(|tail| encode::push_close(tail, role, code, reason));
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let role = self.role;
        self.append(|tail| encode::push_frame(tail, role, opcode, payload));
    }

    fn append(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        write(&mut self.tail);
        self.bytes += self.tail.len() - before;
    }

    fn piece(&mut self, piece: Bytes) {
        self.seal();
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// Writes until nothing is left and everything is flushed. It may be polled again at any point, also after more was
    /// added.
    ///
    /// # Errors
    /// The socket's own, or [`io::ErrorKind::WriteZero`] if it accepts nothing more.
    pub fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut W) -> Poll<io::Result<()>> {
        self.seal();
        while self.bytes > 0 {
            let mut slices = [IoSlice::new(&[]); PIECES];
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            let count = self.pieces.len().min(PIECES);
            let written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        // An idle connection keeps no queue.
        self.pieces.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests;
