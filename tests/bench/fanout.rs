//! One publisher and a thousand subscribers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nats;
use crate::peer::{Kind, PAYLOAD, Servers, contains, limited};
use crate::ws::{Reader, push_frame};

const SUBSCRIBERS: usize = 1_000;
const TOPIC: &str = "bench.fanout:1";

/// What the subscribers have received together.
#[derive(Debug, Default)]
struct Received {
    count: AtomicUsize,
    /// Of each one.
    each: Vec<AtomicUsize>,
    some: Notify,
    /// Why one of them ended early.
    fault: OnceLock<anyhow::Error>,
}

/// CPU microseconds of the server for each delivery.
pub(crate) async fn measure(servers: &Servers, in_flight: usize, length: Duration) -> Result<f64> {
    let received = Arc::new(Received {
        each: (0..SUBSCRIBERS).map(|_| AtomicUsize::new(0)).collect(),
        ..Received::default()
    });
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut writers = Vec::new();
    for subscriber in 0..SUBSCRIBERS {
        let (mut reader, mut writer) = servers.connect(0).await?;
        servers.subscribe(&mut reader, &mut writer, TOPIC).await?;
        writers.push(writer);
        let (kind, received) = (servers.kind(), Arc::clone(&received));
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            if let Err(fault) = count(kind, reader, subscriber, &received).await {
                received.fault.get_or_init(|| fault);
                received.some.notify_one();
            }
        }));
    }
    let result = limited("fan-out", publish(servers, in_flight, length, &received)).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    result
}

/// Counts what one subscriber receives, until a fault.
async fn count(kind: Kind, mut reader: Reader, subscriber: usize, received: &Received) -> Result<()> {
    loop {
        let mut events = events(kind, &reader.next().await?)?;
        while let Some(message) = reader.arrived()? {
            events += self::events(kind, &message)?;
        }
        received.each[subscriber].fetch_add(events, Ordering::Relaxed);
        received.count.fetch_add(events, Ordering::Release);
        received.some.notify_one();
    }
}

/// How many whole events a message carries.
fn events(kind: Kind, message: &[u8]) -> Result<usize> {
    let mut count = 0;
    match kind {
        Kind::Alkhub => {
            ensure!(
                contains(message, PAYLOAD),
                "no event: {}",
                String::from_utf8_lossy(message)
            );
            count += 1;
        }
        Kind::Nats => nats::deliveries(message, |delivery| {
            ensure!(delivery.payload == PAYLOAD, "another payload");
            count += 1;
            Ok(())
        })?,
    }
    Ok(count)
}

async fn publish(servers: &Servers, in_flight: usize, length: Duration, received: &Received) -> Result<f64> {
    let (_reader, mut writer) = servers.connect(0).await?;
    let publication = servers.publication(TOPIC, std::str::from_utf8(PAYLOAD)?);
    let binary = servers.kind() == Kind::Nats;
    let warm_up = 200.max(in_flight);
    let (mut sent, mut start) = (0_usize, None);
    loop {
        let delivered = received.count.load(Ordering::Acquire);
        if let Some(fault) = received.fault.get() {
            bail!("a subscriber ended early: {fault:#}");
        }
        ensure!(delivered <= sent * SUBSCRIBERS, "more deliveries than there can be");
        if sent == warm_up && delivered == sent * SUBSCRIBERS && start.is_none() {
            start = Some((Instant::now(), servers.cpu()?));
        }
        let over = start.is_some_and(|(at, _)| at.elapsed() >= length);
        if over && delivered == sent * SUBSCRIBERS {
            break;
        }
        let window = in_flight.saturating_sub(sent - delivered / SUBSCRIBERS);
        let window = if start.is_none() {
            window.min(warm_up - sent)
        } else {
            window
        };
        if over || window == 0 {
            received.some.notified().await;
            continue;
        }
        let mut frames = Vec::with_capacity(window * (publication.len() + 14));
        for _ in 0..window {
            push_frame(&mut frames, &publication, binary);
        }
        writer.send_raw(&frames).await?;
        sent += window;
    }
    let (_, cpu) = start.expect("the loop ends only after it was set");
    let cpu = servers.cpu()? - cpu;
    for (subscriber, events) in received.each.iter().enumerate() {
        let events = events.load(Ordering::Relaxed);
        ensure!(events == sent, "subscriber {subscriber} received {events} of {sent}");
    }
    let deliveries = (sent - warm_up) * SUBSCRIBERS;
    Ok(cpu.as_secs_f64() * 1e6 / deliveries as f64)
}
