//! Bytes that no WebSocket library would send, on a real socket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{LIMIT, TestHub, hub};

/// Masked with zeros, which leaves the payload as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

async fn upgraded(hub: &TestHub) -> TcpStream {
    let mut socket = TcpStream::connect(hub.hub.url().replace("http://", ""))
        .await
        .expect("connects");
    let handshake = format!(
        "GET /v1/ws HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        hub.admin
    );
    socket.write_all(handshake.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.expect("read"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    socket
}

/// Everything that the hub says until it closes its side.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(LIMIT, socket.read_to_end(&mut rest)).await;
    read.expect("closed in time").expect("read");
    rest
}

#[tokio::test]
async fn each_way_to_break_the_protocol_is_closed_with_its_code_at_once() {
    let hub = hub().await;
    for (case, bytes, code) in [
        ("reserved bits", frame(0xC1, b"{}"), 1002_u16),
        ("not masked", vec![0x81, 2, b'{', b'}'], 1002),
        ("unknown opcode", frame(0x83, b""), 1002),
        ("fragmented ping", frame(0x09, b""), 1002),
        ("continuation of nothing", frame(0x80, b""), 1002),
        ("text that is not UTF-8", frame(0x81, b"\xFF"), 1007),
        ("close code 1005", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        (
            "a length over the limit",
            [&[0x82, 0xFF][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat(),
            1009,
        ),
    ] {
        let mut socket = upgraded(&hub).await;
        socket.write_all(&bytes).await.expect("written");

        let said = rest(&mut socket).await;

        assert_eq!(said[0], 0x88, "{case}: {said:?}");
        assert_eq!(u16::from_be_bytes([said[2], said[3]]), code, "{case}");
    }
}

#[tokio::test]
async fn a_ping_between_fragments_is_answered_and_a_close_is_returned() {
    let hub = hub().await;
    let mut socket = upgraded(&hub).await;
    let text = br#"{"type":"__unsubscribe","id":"","payload":"a:1"}"#;
    let bytes = [
        frame(0x01, &text[..10]),
        frame(0x89, b"still there?"),
        frame(0x80, &text[10..]),
        frame(0x88, &1000_u16.to_be_bytes()),
    ]
    .concat();
    for byte in bytes {
        socket.write_all(&[byte]).await.expect("written");
    }

    let said = rest(&mut socket).await;

    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("still there?"), "{text}");
    assert!(text.contains("__unsubscribed"), "{text}");
    assert!(said.ends_with(&[0x88, 2, 0x03, 0xE8]), "{said:?}");
}
