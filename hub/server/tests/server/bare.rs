//! A WebSocket as bytes on a TCP socket: it sends what no library would send, and reads only when a test says so.

use alkhub_test_support::within;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::TestHub;

/// The head of a ping from the hub; eight bytes follow.
pub(crate) const PING: [u8; 2] = [0x89, 8];

/// How much the kernel buffers for a narrow socket: little, so that it is soon full.
const NARROW_BYTES: u32 = 4096;

/// An open WebSocket, and what has been read from it so far.
pub(crate) struct Bare {
    pub(crate) socket: TcpStream,
    pub(crate) said: Vec<u8>,
}

/// A whole frame, masked with zeros, which leaves the payload unchanged; `first` contains the flags and the opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        short @ ..126 => vec![0x80 | u8::try_from(short).expect("under 126")],
        middle @ ..65_536 => [
            &[0x80 | 126][..],
            &u16::try_from(middle).expect("under 65,536").to_be_bytes(),
        ]
        .concat(),
        long => [&[0x80 | 127][..], &(long as u64).to_be_bytes()].concat(),
    };
    [&[first], &length[..], &[0; 4], payload].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

// === impl Bare ===

impl Bare {
    pub(crate) async fn connect(hub: &TestHub, key: &str) -> Self {
        Self::upgrade(TcpSocket::new_v4().expect("a socket"), hub, key).await
    }

    /// A connection whose kernel buffers little: what is not read stays with the hub.
    pub(crate) async fn narrow(hub: &TestHub, key: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(NARROW_BYTES).expect("set");
        Self::upgrade(socket, hub, key).await
    }

    async fn upgrade(socket: TcpSocket, hub: &TestHub, key: &str) -> Self {
        let address = hub.hub.url().replace("http://", "").parse().expect("an address");
        let mut socket = socket.connect(address).await.expect("connects");
        socket.set_nodelay(true).expect("set");
        let handshake = format!(
            "GET /v1/ws HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(handshake.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.expect("read"));
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Self {
            socket,
            said: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("the kernel takes it");
    }

    pub(crate) async fn text(&mut self, message: &str) {
        self.send(&text(message)).await;
    }

    pub(crate) async fn message(&mut self, message: &Value) {
        self.text(&message.to_string()).await;
    }

    /// Reads until what the hub has sent contains `wanted`.
    pub(crate) async fn until_said(&mut self, wanted: &[u8]) {
        let what = format!("`{}` is said", String::from_utf8_lossy(wanted));
        let reading = async {
            while !self.said.windows(wanted.len()).any(|part| part == wanted) {
                let read = self.socket.read_buf(&mut self.said).await.expect("read");
                assert_ne!(read, 0, "{what}: closed after {}", String::from_utf8_lossy(&self.said));
            }
        };
        within(&what, reading).await;
    }

    /// Answers the ping that the hub has sent or sends now, and forgets what was read before.
    pub(crate) async fn answer_ping(&mut self) {
        self.until_said(&PING).await;
        let at = self.said.windows(2).position(|part| part == PING).expect("seen") + 2;
        while self.said.len() < at + 8 {
            self.socket.read_buf(&mut self.said).await.expect("read");
        }
        let pong = frame(0x8A, &self.said[at..at + 8]);
        self.said.clear();
        self.send(&pong).await;
    }

    /// What was read so far, as text.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// The code and the reason with which the hub closes; everything before that is skipped.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        let closed = async {
            loop {
                let (opcode, payload) = self.next().await;
                if opcode == 0x8 {
                    let (code, reason) = payload.split_at(2);
                    let code = u16::from_be_bytes([code[0], code[1]]);
                    return (code, String::from_utf8_lossy(reason).into_owned());
                }
            }
        };
        within("the hub closes", closed).await
    }

    /// The opcode and the payload of the next frame.
    async fn next(&mut self) -> (u8, Vec<u8>) {
        assert!(self.said.is_empty(), "some of it was read as bytes");
        let first = self.socket.read_u8().await.expect("read");
        let length = match self.socket.read_u8().await.expect("read") {
            126 => u64::from(self.socket.read_u16().await.expect("read")),
            127 => self.socket.read_u64().await.expect("read"),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).expect("fits")];
        self.socket.read_exact(&mut payload).await.expect("read");
        (first & 0x0F, payload)
    }

    /// Everything that the hub sends until it closes its side.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        within("the hub closes", self.socket.read_to_end(&mut self.said))
            .await
            .expect("read");
        self.said
    }
}
