//! Memory of connections that do nothing.

use anyhow::Result;

use crate::peer::Servers;

const CONNECTIONS: usize = 2_000;
/// Opened before the first look, so that what a server sets aside once is not counted.
const WARM_UP: usize = 200;

/// Resident KiB of the server for each idle WebSocket with one subscription.
pub(crate) async fn measure(servers: &Servers) -> Result<f64> {
    let mut open = Vec::new();
    let mut before = 0;
    for n in 0..WARM_UP + CONNECTIONS {
        if n == WARM_UP {
            before = servers.resident_bytes()?;
        }
        let (mut reader, mut writer) = servers.connect(0).await?;
        servers
            .subscribe(&mut reader, &mut writer, &format!("bench.idle:{n}"))
            .await?;
        open.push((reader, writer));
    }
    let grown = servers.resident_bytes()?.saturating_sub(before);
    Ok(grown as f64 / 1024.0 / CONNECTIONS as f64)
}
