//! The opening handshake, with just as much HTTP as it needs.

use alkhub_wire::handshake;
use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest head of a request or an answer, roughly.
const HEAD_LIMIT: usize = 16 * 1024;

/// Answers a client's request; also returns what the client sent after it.
pub(crate) async fn accept(mut stream: TcpStream) -> Result<(TcpStream, BytesMut)> {
    let (head, rest) = head(&mut stream).await?;
    let key = field(&head, "sec-websocket-key").filter(|key| handshake::is_key(key.as_bytes()));
    let accept = handshake::accept(key.context("no key in the request")?.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok((stream, rest))
}

/// Asks a server for a WebSocket; also returns what the server sent after its answer.
pub(crate) async fn request(mut stream: TcpStream, host: &str, path: &str) -> Result<(TcpStream, BytesMut)> {
    let key = handshake::fresh_key();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let (head, rest) = head(&mut stream).await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "refused: {head}");
    let accept = field(&head, "sec-websocket-accept");
    ensure!(
        accept == Some(&handshake::accept(key.as_bytes())),
        "answered without the key: {head}"
    );
    Ok((stream, rest))
}

/// Reads up to the blank line; also returns what came after it.
async fn head(stream: &mut TcpStream) -> Result<(String, BytesMut)> {
    let mut read = BytesMut::with_capacity(1024);
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = read.split_to(end + 4);
            return Ok((String::from_utf8(head.into())?, read));
        }
        ensure!(read.len() < HEAD_LIMIT, "the head of HTTP does not end");
        ensure!(stream.read_buf(&mut read).await? > 0, "closed during the handshake");
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value.trim())
}
