//! What one write takes to a socket: everything that was queued, in as few pieces as can be.
//!
//! Small frames are copied together, large payloads and a lone shared frame go as they are; the pieces leave in one
//! vectored write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::frame::{self, Kind};

/// From this size on a payload is not copied.
const LARGE: usize = 4 * 1024;

/// Pieces of one vectored write.
const PIECES: usize = 16;

/// Frames on their way to one socket.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
    unflushed: bool,
}

// === impl Batch ===

impl Batch {
    /// Bytes waiting.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits, not even a flush.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && !self.unflushed
    }

    /// Adds a message that has no frame yet.
    pub(crate) fn message(&mut self, kind: Kind, payload: Bytes) {
        let before = self.tail.len();
        if payload.len() < LARGE {
            frame::push_message(&mut self.tail, kind, &payload);
            self.bytes += self.tail.len() - before;
        } else {
            frame::push_header(&mut self.tail, kind, payload.len());
            self.bytes += self.tail.len() - before;
            self.piece(payload);
        }
    }

    /// Adds a text message that is framed already and shared with other connections.
    pub(crate) fn framed(&mut self, kind: Kind, framed: Bytes) {
        let binary = kind != Kind::Text;
        let alone = self.bytes == 0 && !binary;
        if alone {
            self.piece(framed);
        } else if framed.len() < LARGE {
            let start = self.tail.len();
            self.tail.extend_from_slice(&framed);
            self.tail[start] = frame::first_byte(kind);
            self.bytes += framed.len();
        } else {
            self.tail.extend_from_slice(&[frame::first_byte(kind)]);
            self.bytes += 1;
            self.piece(framed.slice(1..));
        }
    }

    /// Adds control frames, written by `write`.
    pub(crate) fn control(&mut self, write: impl FnOnce(&mut BytesMut)) {
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

    /// Writes until nothing is left and it is flushed. May be dropped and polled again at any point.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<io::Result<()>> {
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
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes a few bytes at a time.
    struct Narrow(Vec<u8>, usize);

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let take = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..take]);
            Poll::Ready(Ok(take))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn written(batch: &mut Batch, step: usize) -> Vec<u8> {
        let mut io = Narrow(Vec::new(), step);
        let done = batch.poll_write(&mut Context::from_waker(Waker::noop()), &mut io);
        assert!(matches!(done, Poll::Ready(Ok(()))));
        assert!(batch.is_empty());
        io.0
    }

    #[test]
    fn everything_leaves_in_its_order_however_little_a_write_takes() {
        let large = Bytes::from(vec![b'x'; LARGE]);
        let mut expected = BytesMut::new();
        frame::push_ping(&mut expected);
        frame::push_message(&mut expected, Kind::Text, b"small");
        frame::push_message(&mut expected, Kind::Text, &large);
        frame::push_message(&mut expected, Kind::Text, b"event");
        frame::push_message(&mut expected, Kind::Text, &large);

        for step in [1, 7, 100_000] {
            let mut batch = Batch::default();
            batch.control(frame::push_ping);
            batch.message(Kind::Text, Bytes::from_static(b"small"));
            batch.message(Kind::Text, large.clone());
            batch.framed(Kind::Text, frame::text(b"event"));
            batch.framed(Kind::Text, frame::text(&large));
            assert_eq!(batch.len(), expected.len());

            assert_eq!(written(&mut batch, step), expected, "{step} at a time");
        }
    }

    #[test]
    fn a_lone_shared_frame_is_not_copied() {
        let framed = frame::text(b"event");
        let mut batch = Batch::default();

        batch.framed(Kind::Text, framed.clone());

        assert_eq!(batch.pieces[0].as_ptr(), framed.as_ptr());
    }

    #[test]
    fn a_shared_text_frame_goes_as_binary_to_a_peer_that_speaks_binary() {
        for payload in [b"event".to_vec(), vec![b'x'; LARGE]] {
            let mut expected = BytesMut::new();
            frame::push_message(&mut expected, Kind::Binary, &payload);
            let mut batch = Batch::default();

            batch.framed(Kind::Binary, frame::text(&payload));

            assert_eq!(written(&mut batch, 50), expected);
        }
    }
}
