//! Spokes that all register again at once, at a hub that knows what they offer.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::system::Servers;
use crate::ws::{Reader, Writer};

const SPOKES: usize = 5_000;

/// How many operations each spoke offers. Few, because the hub charges all of them to one key (`budget.key-bytes`).
pub(crate) const OPERATIONS: usize = 10;

/// How many registrations are under way at once.
const AT_ONCE: usize = 100;

/// The time between two connections: below `server.requests-per-second-per-key`.
const DISTANCE: Duration = Duration::from_millis(1);

/// The cost of one storm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    /// CPU time of both hubs and Redis per registration, in microseconds.
    pub(crate) micros: f64,
    /// Seconds until all were registered.
    pub(crate) seconds: f64,
    /// The size of each registration's message.
    pub(crate) bytes: f64,
}

/// Registers all spokes at one of two hubs, either in full or by the hashes that the other hub has returned.
pub(crate) async fn measure(servers: &Servers, by_hash: bool) -> Result<Storm> {
    let whole: Vec<Value> = (0..OPERATIONS).map(operation).collect();
    let mut first = greeted(servers, 0).await?;
    let told = register(&mut first, &registration("first", &whole)).await?;
    let hashes: Vec<Value> = told.iter().map(|told| told["hash"].clone()).collect();
    ensure!(hashes.iter().all(Value::is_string), "no hashes: {told:?}");
    let offered = if by_hash { hashes } else { whole };
    let mut spokes = Vec::new();
    let mut turns = interval(DISTANCE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0..SPOKES {
        turns.tick().await;
        let message = registration(&format!("i-{number}"), &offered);
        spokes.push((greeted(servers, 1).await?, message));
    }
    let bytes = spokes[0].1.len() as f64;

    let (cpu, began) = (servers.cpu()?, Instant::now());
    let each = spokes.chunks_mut(SPOKES / AT_ONCE).map(async |spokes| {
        for (connection, message) in spokes {
            register(connection, message).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(each).await?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), servers.cpu()?.saturating_sub(cpu));

    Ok(Storm {
        micros: cpu.as_secs_f64() * 1e6 / SPOKES as f64,
        seconds,
        bytes,
    })
}

/// An operation of the usual size.
pub(crate) fn operation(number: usize) -> Value {
    let text = json!({ "type": "string", "description": "A text of any language, in Unicode" });
    json!({
        "namespace": "bench", "name": format!("op{number}"), "type": "query", "version": "1.0.0",
        "description": "An operation of about the usual size, which a person can read",
        "inputSchema": { "type": "object", "properties": { "text": text, "times": { "type": "integer" } }, "required": ["text"] },
        "outputSchema": { "type": "object", "properties": { "text": text } },
        "accessControl": { "requiredScopes": [] },
    })
}

fn registration(instance: &str, offered: &[Value]) -> String {
    let input = json!({ "name": "bench", "instanceId": instance, "operations": offered });
    json!({ "type": "hub.register", "id": "r", "payload": input }).to_string()
}

/// A connection whose hub has agreed to hashes.
async fn greeted(servers: &Servers, node: usize) -> Result<(Reader, Writer)> {
    let (mut reader, mut writer) = servers.connect(node).await?;
    let hello = br#"{"type":"__hello","id":"","payload":{"features":["hashes"]}}"#;
    writer.send(hello, false).await?;
    let welcome = reader.next().await?;
    ensure!(welcome.starts_with(br#"{"type":"__welcome""#), "{welcome:?}");
    Ok((reader, writer))
}

/// Registers; returns what the hub says about each operation.
async fn register((reader, writer): &mut (Reader, Writer), message: &str) -> Result<Vec<Value>> {
    writer.send(message.as_bytes(), false).await?;
    results(&serde_json::from_slice(&reader.next().await?)?)
}

/// What the answer to a registration says about each operation; all must be there.
pub(crate) fn results(answer: &Value) -> Result<Vec<Value>> {
    let results = &answer["payload"]["output"]["data"]["operations"];
    let results = results.as_array().cloned().unwrap_or_default();
    let is_there = |result: &Value| result["result"] == "registered" || result["result"] == "pooled";
    ensure!(
        results.len() == OPERATIONS && results.iter().all(is_there),
        "not registered: {answer}"
    );
    Ok(results)
}
