//! One WebSocket: reads messages, answers pings and closes, and writes what is queued before it reads again.

use std::io;
use std::time::Duration;

use alkhub_wire::{Batch, Decoder, MessageKind, Received, Role, Violation};
use anyhow::Result;
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The close code of an end without a reason, RFC 6455, section 7.4.1.
const NORMAL: u16 = 1000;

/// The longest message: as long as those that Autobahn sends.
const LIMIT: usize = 16 * 1024 * 1024;

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// How long to wait for the peer to end the connection after both sides have closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection after its handshake.
pub(crate) struct Socket {
    role: Role,
    stream: TcpStream,
    unread: BytesMut,
    decoder: Decoder,
    batch: Batch,
}

// === impl Socket ===

impl Socket {
    /// `unread` is what came with the handshake.
    pub(crate) fn new(role: Role, stream: TcpStream, unread: BytesMut) -> Self {
        Self {
            role,
            stream,
            unread,
            decoder: Decoder::new(role, LIMIT),
            batch: Batch::new(role),
        }
    }

    /// Queues a message. It is sent before the next read, together with all other answers to the last one.
    pub(crate) fn send(&mut self, kind: MessageKind, data: Bytes) {
        self.batch.message(kind, data);
    }

    /// The next message; `None` once the connection has ended, with or without a close.
    pub(crate) async fn next(&mut self) -> Result<Option<(MessageKind, Bytes)>> {
        loop {
            let mut input = self.unread.as_ref();
            let fed = self.decoder.feed(&mut input);
            let taken = self.unread.len() - input.len();
            self.unread.advance(taken);
            match fed {
                Ok(Some(Received::Message { kind, data })) => return Ok(Some((kind, data))),
                Ok(Some(Received::Ping(payload))) => self.batch.pong(&payload),
                Ok(Some(Received::Pong(_))) => {}
                Ok(Some(Received::TooLarge { .. })) => {
                    return self.close(number(Violation::TooLarge), "over the limit").await;
                }
                Ok(Some(Received::Close { code })) => return self.close(code.unwrap_or(NORMAL), "").await,
                Err(error) => return self.close(number(error.violation), error.reason).await,
                Ok(None) => {
                    self.flush().await?;
                    self.unread.reserve(READ);
                    if self.stream.read_buf(&mut self.unread).await? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.batch.poll_write(cx, &mut self.stream)).await
    }

    /// Sends what is left and the close frame. The server ends the connection; whatever the peer still sends is read
    /// and discarded, since a reset would lose the close frame.
    async fn close(&mut self, code: u16, reason: &str) -> Result<Option<(MessageKind, Bytes)>> {
        self.batch.close(code, reason);
        self.flush().await?;
        if self.role == Role::Server {
            self.stream.shutdown().await?;
        }
        let end = async {
            let mut scratch = [0; 4096];
            while self.stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
        };
        let _ended = timeout(CLOSE_TIMEOUT, end).await;
        Ok(None)
    }
}

/// The close codes of RFC 6455, section 7.4.1.
fn number(violation: Violation) -> u16 {
    match violation {
        Violation::Protocol => 1002,
        Violation::NotUtf8 => 1007,
        Violation::TooLarge => 1009,
    }
}
