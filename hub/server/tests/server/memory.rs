//! The cost of an idle connection, which is only printed: figures are compared in the benchmark.
//!
//! The clients are bare sockets, because most of what is measured would otherwise be a WebSocket library's buffers.

use futures::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::bare::Bare;
use crate::harness::{TestHub, hub};

const CONNECTIONS: usize = 1_000;

const SUBSCRIBE: &str = r#"{"type":"__subscribe","id":"","payload":"a:1"}"#;

const SUBSCRIBED: &str = r#"{"type":"__subscribed","id":"","payload":{"topic":"a:1"}}"#;

/// Resident bytes of this process, including both ends of the connections.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = status.split(' ').nth(1).expect("a number").parse().expect("a number");
    pages * 4096
}

/// Raises the limit of open files, which is 1,024 in most shells: both ends of each connection are in this process.
fn allow_files(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let wanted = wanted.max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
        .unwrap_or_else(|error| panic!("this test needs {wanted} open files (ulimit -n), {hard} are allowed: {error}"));
}

/// A WebSocket with one confirmed subscription.
async fn subscriber(hub: &TestHub) -> TcpStream {
    let mut bare = Bare::connect(hub, &hub.admin).await;
    bare.text(SUBSCRIBE).await;
    let mut socket = bare.socket;
    expect(&mut socket, SUBSCRIBED).await;
    socket
}

/// Reads one short text frame, skipping pings before it.
async fn expect(socket: &mut TcpStream, text: &str) {
    loop {
        let [first, length] = [
            socket.read_u8().await.expect("read"),
            socket.read_u8().await.expect("read"),
        ];
        let mut payload = vec![0; usize::from(length)];
        socket.read_exact(&mut payload).await.expect("read");
        if first == 0x81 {
            return assert_eq!(std::str::from_utf8(&payload).expect("UTF-8"), text);
        }
    }
}

#[tokio::test]
async fn a_thousand_idle_connections_stay_open_and_are_answered() {
    allow_files(4 * CONNECTIONS as u64);
    let hub = hub().await;
    let _first = subscriber(&hub).await;
    let before = resident();

    let mut sockets = Vec::new();
    for _ in 0..CONNECTIONS / 50 {
        sockets.extend(join_all((0..50).map(|_| subscriber(&hub))).await);
    }

    assert_eq!(hub.hub.websockets(), CONNECTIONS + 1);
    let each = resident().saturating_sub(before) / CONNECTIONS;
    println!("{each} bytes for one idle connection with one subscription, its client's socket included");
    let published = hub.post("/v1/events/a/1", &serde_json::json!(1)).await;
    assert_eq!(published.body["data"]["local"], CONNECTIONS + 1);
    for socket in &mut sockets {
        expect(socket, r#"{"type":"a","id":"1","payload":1}"#).await;
    }
}
