//! What an idle connection costs; printed, for the benchmark is where it is compared.

use futures::future::join_all;

use crate::harness::hub;
use crate::wire::Wire;

const CONNECTIONS: usize = 1_000;

/// Resident bytes of this process, both ends of the connections included.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = status.split(' ').nth(1).expect("a number").parse().expect("a number");
    pages * 4096
}

#[tokio::test]
async fn a_thousand_idle_connections_stay_open_and_are_answered() {
    let hub = hub().await;
    let before = resident();

    let mut sockets = Vec::new();
    for _ in 0..CONNECTIONS / 50 {
        sockets.extend(join_all((0..50).map(|_| Wire::connect(&hub, &hub.admin))).await);
    }
    for socket in &mut sockets {
        socket.text(r#"{"type":"__subscribe","id":"","payload":"a:1"}"#).await;
        socket.expect("__subscribed").await;
    }

    assert_eq!(hub.hub.websockets(), CONNECTIONS);
    let each = resident().saturating_sub(before) / CONNECTIONS;
    println!("{each} bytes for one idle connection with one subscription, its client's end included");
    let published = hub.post("/v1/events/a/1", &serde_json::json!(1)).await;
    assert_eq!(published.body["data"]["localSubscribers"], CONNECTIONS);
    for socket in &mut sockets {
        assert_eq!(socket.expect("a").await["payload"], 1);
    }
}
