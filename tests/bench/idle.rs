//! Memory of connections that do nothing.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{MissedTickBehavior, interval};

use crate::peer::Servers;

/// Many: an allocator takes memory from the kernel in pieces of megabytes.
const CONNECTIONS: usize = 8_000;
/// Opened before the first look, so that what a server sets aside once is not counted.
const WARM_UP: usize = 800;
/// Between two: below `server.requests-per-second-per-key`.
const DISTANCE: Duration = Duration::from_millis(1);

/// Resident KiB of the server for each idle WebSocket with one subscription.
pub(crate) async fn measure(servers: &Servers) -> Result<f64> {
    let mut open = Vec::new();
    let mut before = 0;
    let mut turns = interval(DISTANCE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0..WARM_UP + CONNECTIONS {
        if n == WARM_UP {
            before = servers.resident_bytes()?;
        }
        turns.tick().await;
        let (mut reader, mut writer) = servers.connect(0).await?;
        servers
            .subscribe(&mut reader, &mut writer, &format!("bench.idle:{n}"))
            .await?;
        open.push((reader, writer));
    }
    let grown = servers.resident_bytes()?.saturating_sub(before);
    Ok(grown as f64 / 1024.0 / CONNECTIONS as f64)
}
