//! The opening handshake (RFC 6455, section 4), as far as two hubs need it.
//!
//! Invariants
//! - A head is read only up to a limit, whoever sends it: nobody has proved anything at that point.

use std::net::SocketAddr;

use alkhub_wire::handshake;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::Error;

/// The request line of a link.
const REQUEST_LINE: &str = "GET /peer HTTP/1.1";

/// The longest head of a request or an answer.
const HEAD_LIMIT: usize = 4 * 1024;

const REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The lines of a head, and the bytes that followed it.
struct Head {
    text: String,
    rest: Vec<u8>,
}

/// Asks for a WebSocket; returns the bytes that followed the answer.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, to: SocketAddr) -> Result<Vec<u8>, Error> {
    let key = handshake::fresh_key();
    let request = format!(
        "{REQUEST_LINE}\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let head = read(stream).await?;
    if !head.text.starts_with("HTTP/1.1 101 ") {
        return Err(Error::Foreign("the answer is not 101"));
    }
    if head.field("sec-websocket-accept") != Some(handshake::accept(key.as_bytes()).as_str()) {
        return Err(Error::Foreign("the answer is not to this request"));
    }
    Ok(head.rest)
}

/// Answers a request for a WebSocket; returns the bytes that followed the request.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Vec<u8>, Error> {
    let head = read(stream).await?;
    let Some(key) = head.asked() else {
        stream.write_all(REFUSAL).await?;
        stream.flush().await?;
        return Err(Error::Foreign("the request asks for something else"));
    };
    let accept = handshake::accept(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: \
         {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    Ok(head.rest)
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Head, Error> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(Error::Foreign("the connection ended before the head did"));
        }
        bytes.extend_from_slice(&chunk[..count]);
        if let Some(end) = bytes.windows(END.len()).position(|window| window == END) {
            let rest = bytes.split_off(end + END.len());
            let text = String::from_utf8(bytes).map_err(|_| Error::Foreign("the head is not UTF-8"))?;
            return Ok(Head { text, rest });
        }
        if bytes.len() > HEAD_LIMIT {
            return Err(Error::Foreign("the head does not end"));
        }
    }
}

// === impl Head ===

impl Head {
    /// The value of a field; `name` is in lower case.
    fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The key of a request for a link.
    fn asked(&self) -> Option<&str> {
        let upgrade = self.field("upgrade")?;
        let is_asked = self.text.lines().next() == Some(REQUEST_LINE)
            && upgrade.eq_ignore_ascii_case("websocket")
            && self.field("sec-websocket-version") == Some("13");
        let key = self.field("sec-websocket-key")?;
        (is_asked && handshake::is_key(key.as_bytes())).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn what_comes_behind_the_answer_is_kept() {
        let (mut ours, mut theirs) = duplex(4096);
        let answering = async {
            answer(&mut theirs).await.expect("asked");
            theirs.write_all(b"more").await.expect("open");
            drop(theirs);
        };

        let (rest, ()) = tokio::join!(ask(&mut ours, ([127, 0, 0, 1], 1).into()), answering);

        let mut rest = rest.expect("answered");
        ours.read_to_end(&mut rest).await.expect("open");
        assert_eq!(rest, b"more");
    }

    #[tokio::test]
    async fn whoever_asks_for_something_else_gets_400() {
        for request in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /peer HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
            "GET /peer HTTP/1.1\r\nUpgrade: h2c\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
             dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ] {
            let (mut ours, mut theirs) = duplex(4096);
            ours.write_all(request.as_bytes()).await.expect("open");

            let refused = answer(&mut theirs).await;

            assert!(matches!(refused, Err(Error::Foreign(_))), "{request}: {refused:?}");
            drop(theirs);
            let mut answer = String::new();
            ours.read_to_string(&mut answer).await.expect("text");
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_not_kept() {
        let (mut ours, mut theirs) = duplex(64 * 1024);
        ours.write_all(&[b'x'; 16 * 1024]).await.expect("open");

        let refused = answer(&mut theirs).await;

        assert!(
            matches!(refused, Err(Error::Foreign("the head does not end"))),
            "{refused:?}"
        );
    }
}
