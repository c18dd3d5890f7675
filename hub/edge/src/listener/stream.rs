//! A client's socket, with or without TLS; everything that is read and written passes through it.
//!
//! Invariants
//! - While it serves HTTP, a client that takes none of what is written for `server.write-timeout` causes an error, so
//!   that nobody occupies a place by not reading. A WebSocket has timers of its own.
//! - When hyper itself answers a request that it cannot read, with an empty body, a problem document is sent instead.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use super::raw::Raw;
use super::refusal::{self, HEADER_LIMIT};

/// What is read from and written to.
#[derive(Debug)]
pub struct Stream {
    io: Io,
    http: Option<Box<Http>>,
}

#[derive(Debug)]
enum Io {
    /// TCP.
    Plain(Raw),
    /// TLS over TCP.
    Tls(Box<TlsStream<Raw>>),
}

/// State that is needed only while it speaks HTTP.
#[derive(Debug)]
struct Http {
    write_timeout: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether answers are text that can be searched: HTTP/1.
    text: bool,
    /// Bytes that were read since the last line break, up to the limit of a header.
    line: usize,
    /// A refusal on its way out, instead of hyper's.
    refusal: Vec<u8>,
}

// === impl Stream ===

impl Stream {
    pub(super) fn plain(socket: Raw, write_timeout: Duration) -> Self {
        Self::new(Io::Plain(socket), write_timeout)
    }

    pub(super) fn tls(socket: Box<TlsStream<Raw>>, write_timeout: Duration) -> Self {
        Self::new(Io::Tls(socket), write_timeout)
    }

    fn new(io: Io, write_timeout: Duration) -> Self {
        Self {
            io,
            http: Some(Box::new(Http {
                write_timeout,
                stalled: None,
                text: true,
                line: 0,
                refusal: Vec::new(),
            })),
        }
    }

    /// From here on it speaks HTTP/2.
    pub(super) fn binary(mut self) -> Self {
        if let Some(http) = &mut self.http {
            http.text = false;
        }
        self
    }

    /// From here on it no longer speaks HTTP: the memory and the timer for that are freed.
    pub fn upgraded(mut self) -> Self {
        self.http = None;
        self
    }
}

// === impl Io ===

impl Io {
    fn write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}

// === impl Http ===

impl Http {
    /// Passes on the result of a write; too long without progress is an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client took nothing of its answer for `server.write-timeout`",
        )))
    }

    /// Writes, replacing a refusal of hyper's with a problem document.
    fn write(&mut self, io: &mut Io, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.write_refusal(io, cx))?;
        let Some(own) = self.text.then(|| refusal::find(slices)).flatten() else {
            return io.write(cx, slices);
        };
        if own.before > 0 {
            // First what precedes it: the answer to an earlier request.
            return io.write(cx, &refusal::up_to(slices, own.before));
        }
        self.refusal = refusal::document(own.head, self.line >= HEADER_LIMIT);
        Poll::Ready(Ok(own.head.len()))
    }

    fn write_refusal(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            let count = ready!(io.write(cx, &[IoSlice::new(&self.refusal)]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    fn read(&mut self, bytes: &[u8]) {
        self.line = match memchr::memrchr(b'\n', bytes) {
            Some(end) => bytes.len() - end - 1,
            None => self.line.saturating_add(bytes.len()),
        };
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, http } = self.get_mut();
        let before = buffer.filled().len();
        ready!(match io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        })?;
        if let Some(http) = http.as_mut().filter(|http| http.text) {
            http.read(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { io, http } = self.get_mut();
        let Some(http) = http else {
            return io.write(cx, slices);
        };
        let written = http.write(io, cx, slices);
        http.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, http } = self.get_mut();
        let Some(http) = http else { return io.flush(cx) };
        let flushed = match http.write_refusal(io, cx) {
            Poll::Ready(Ok(())) => io.flush(cx),
            other => other,
        };
        http.watch(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, http } = self.get_mut();
        if let Some(http) = http {
            let refused = http.write_refusal(io, cx);
            ready!(http.watch(cx, refused))?;
        }
        match io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
