//! The load's end of a WebSocket (RFC 6455), which does as little work as the protocol allows.
//!
//! Frames are sent with an all-zero mask, which is allowed and saves a second pass over the payload.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

#[derive(Debug)]
pub(crate) struct Reader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
}

#[derive(Debug)]
pub(crate) struct Writer {
    stream: OwnedWriteHalf,
}

/// Connects and upgrades.
pub(crate) async fn connect(address: &str, path: &str, headers: &str) -> Result<(Reader, Writer)> {
    let mut stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = BytesMut::with_capacity(4096);
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(
            stream.read_buf(&mut buffer).await? > 0,
            "the server closed during the upgrade"
        );
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    ensure!(head.starts_with("HTTP/1.1 101"), "no upgrade: {head}");
    buffer.advance(end);
    let (read, write) = stream.into_split();
    Ok((Reader { stream: read, buffer }, Writer { stream: write }))
}

// === impl Reader ===

impl Reader {
    /// The next message's payload; pings and pongs are skipped.
    pub(crate) async fn next(&mut self) -> Result<Bytes> {
        loop {
            if let Some(message) = self.arrived()? {
                return Ok(message);
            }
            ensure!(
                self.stream.read_buf(&mut self.buffer).await? > 0,
                "the server closed the connection"
            );
        }
    }

    /// The next message, if it has been read already.
    pub(crate) fn arrived(&mut self) -> Result<Option<Bytes>> {
        while let Some((opcode, payload)) = self.frame() {
            match opcode {
                0x1 | 0x2 => return Ok(Some(payload)),
                0x8 => bail!("closed by the server: {payload:?}"),
                _ => {}
            }
        }
        Ok(None)
    }

    fn frame(&mut self) -> Option<(u8, Bytes)> {
        let head = self.buffer.get(..2)?;
        let opcode = head[0] & 0x0f;
        let (start, length) = match head[1] & 0x7f {
            126 => (
                4,
                usize::from(u16::from_be_bytes(self.buffer.get(2..4)?.try_into().ok()?)),
            ),
            127 => (
                10,
                usize::try_from(u64::from_be_bytes(self.buffer.get(2..10)?.try_into().ok()?)).ok()?,
            ),
            short => (2, usize::from(short)),
        };
        if self.buffer.len() < start + length {
            self.buffer.reserve(start + length - self.buffer.len());
            return None;
        }
        self.buffer.advance(start);
        Some((opcode, self.buffer.split_to(length).freeze()))
    }
}

// === impl Writer ===

impl Writer {
    pub(crate) async fn send(&mut self, payload: &[u8], binary: bool) -> Result<()> {
        let mut out = Vec::with_capacity(payload.len() + 14);
        push_frame(&mut out, payload, binary);
        Ok(self.stream.write_all(&out).await?)
    }

    /// Sends what [`push_frame`] has gathered.
    pub(crate) async fn send_raw(&mut self, frames: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(frames).await?)
    }
}

/// Appends one masked frame.
pub(crate) fn push_frame(out: &mut Vec<u8>, payload: &[u8], binary: bool) {
    out.push(if binary { 0x82 } else { 0x81 });
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | u8::try_from(length).expect("under 126")),
        length @ 126..=0xffff => {
            out.push(0xfe);
            out.extend_from_slice(&u16::try_from(length).expect("fits").to_be_bytes());
        }
        length => {
            out.push(0xff);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}
