//! Memory of connections that do nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{MissedTickBehavior, interval};

use crate::system::{Servers, contains};
use crate::ws::{Reader, Writer};

/// Many, because an allocator takes memory from the kernel in pieces of megabytes.
const CONNECTIONS: usize = 8_000;
/// Opened before the first look, so that what a server allocates once is not counted.
const WARM_UP: usize = 800;
/// The time between two connections: below `server.requests-per-second-per-key`.
const DISTANCE: Duration = Duration::from_millis(1);

/// Spokes that are measured, with one session and with two, and those opened before the first look. Few, because nobody
/// answers their pings.
const SPOKES: usize = 1_000;
const FIRST_SPOKES: usize = 200;

/// Resident KiB of the server per idle WebSocket with one subscription.
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

/// Resident KiB of all hubs together per idle spoke with this many sessions, each on a hub of its own, as the SDK holds
/// them.
pub(crate) async fn measure_spokes(servers: &Servers, sessions: usize) -> Result<f64> {
    let mut open = Vec::new();
    let mut before = 0;
    for n in 0..FIRST_SPOKES + SPOKES {
        if n == FIRST_SPOKES {
            before = servers.all_resident_bytes()?;
        }
        for session in 0..sessions {
            let (mut reader, mut writer) = servers.connect((n + session) % 2).await?;
            let instance = if session == 0 {
                format!("i-{n}")
            } else {
                format!("i-{n}#2")
            };
            register(&mut reader, &mut writer, &instance).await?;
            open.push((reader, writer));
        }
    }
    let grown = servers.all_resident_bytes()?.saturating_sub(before);
    Ok(grown as f64 / 1024.0 / SPOKES as f64)
}

/// Begins a session that can be resumed, and registers an instance with one operation.
async fn register(reader: &mut Reader, writer: &mut Writer, instance: &str) -> Result<()> {
    let hello = br#"{"type":"__hello","id":"","payload":{"features":["resume","migrate","hubs"]}}"#;
    writer.send(hello, false).await?;
    let register = format!(
        r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r","operationId":"hub.register","input":{{"name":"bench","instanceId":"{instance}","operations":[{{"namespace":"bench","name":"echo","version":"1.0.0","type":"query","description":"echo","inputSchema":{{"type":"object"}},"outputSchema":{{"type":"object"}},"accessControl":{{"requiredScopes":[]}}}}]}}}}}}"#
    );
    writer.send(register.as_bytes(), false).await?;
    loop {
        let message = reader.next().await?;
        if contains(&message, b"\"requestId\":\"r\"") {
            // For all spokes but the first, the operation joins a pool.
            let is_there = [&b"\"registered\""[..], b"\"pooled\""]
                .iter()
                .any(|result| contains(&message, result));
            ensure!(is_there, "not registered: {message:?}");
            return Ok(());
        }
    }
}
