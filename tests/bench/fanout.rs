//! One publisher and a thousand subscribers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::peer::{Kind, Servers, limited, payload};
use crate::ws::{Reader, push_frame};

const SUBSCRIBERS: usize = 1_000;
const TOPIC: &str = "bench.fanout:1";

/// What the subscribers have received together.
#[derive(Debug, Default)]
struct Received {
    count: AtomicUsize,
    some: Notify,
}

/// CPU microseconds of the server for each delivery.
pub(crate) async fn measure(servers: &Servers, in_flight: usize, length: Duration) -> Result<f64> {
    let received = Arc::new(Received::default());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut writers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let (mut reader, mut writer) = servers.connect(0).await?;
        servers.subscribe(&mut reader, &mut writer, TOPIC).await?;
        writers.push(writer);
        let (kind, received) = (servers.kind(), Arc::clone(&received));
        tasks.spawn(stop.clone().run_until_cancelled_owned(count(kind, reader, received)));
    }
    let result = limited("fan-out", publish(servers, in_flight, length, &received)).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    result
}

async fn count(kind: Kind, mut reader: Reader, received: Arc<Received>) {
    while let Ok(message) = reader.next().await {
        let events = kind.deliveries(&message);
        received.count.fetch_add(events, Ordering::Relaxed);
        received.some.notify_one();
    }
}

async fn publish(servers: &Servers, in_flight: usize, length: Duration, received: &Received) -> Result<f64> {
    let (_reader, mut writer) = servers.connect(0).await?;
    let publication = servers.publication(TOPIC, &payload());
    let binary = servers.kind() == Kind::Nats;
    let warm_up = 200.max(in_flight);
    let (mut sent, mut start) = (0_usize, None);
    loop {
        let delivered = received.count.load(Ordering::Relaxed);
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
    let deliveries = (sent - warm_up) * SUBSCRIBERS;
    Ok((servers.cpu()? - cpu).as_secs_f64() * 1e6 / deliveries as f64)
}
