//! One publisher and a thousand subscribers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nats;
use crate::pace::{Latency, Schedule};
use crate::peer::{Kind, PAYLOAD, Servers, contains, limited};
use crate::ws::{Reader, Writer, push_frame};

const SUBSCRIBERS: usize = 1_000;
const TOPIC: &str = "bench.fanout:1";

/// Events that wait for their delivery while throughput is measured.
const FULL_LOAD: usize = 64;

/// What the subscribers have received together.
#[derive(Debug, Default)]
struct Received {
    count: AtomicUsize,
    /// Of each one.
    each: Vec<AtomicUsize>,
    some: Notify,
    /// Why one of them ended early.
    fault: OnceLock<anyhow::Error>,
    /// The number of the first event whose latency is measured, and when it and those after it are due.
    timed: OnceLock<(usize, Schedule)>,
    latencies: Mutex<Vec<Duration>>,
}

/// What deliveries cost, each event sent as soon as another one was delivered to all.
struct Closed {
    /// CPU microseconds of the server for each delivery.
    cpu: f64,
    /// Events delivered to all in a second.
    per_second: f64,
    /// Events sent in all.
    sent: usize,
}

// === impl Received ===

impl Received {
    /// Notes what a subscriber has read.
    fn add(&self, subscriber: usize, events: usize) {
        let now = Instant::now();
        let before = self.each[subscriber].fetch_add(events, Ordering::Relaxed);
        if let Some((first, schedule)) = self.timed.get() {
            let read = (before..before + events).filter_map(|n| schedule.latency(n.checked_sub(*first)?, now));
            self.latencies.lock().extend(read);
        }
        self.count.fetch_add(events, Ordering::Release);
        self.some.notify_one();
    }

    /// Deliveries so far.
    fn deliveries(&self) -> Result<usize> {
        match self.fault.get() {
            Some(fault) => bail!("a subscriber ended early: {fault:#}"),
            None => Ok(self.count.load(Ordering::Acquire)),
        }
    }

    /// Fails unless each subscriber has received each event.
    fn check(&self, sent: usize) -> Result<()> {
        for (subscriber, events) in self.each.iter().enumerate() {
            let events = events.load(Ordering::Relaxed);
            ensure!(events == sent, "subscriber {subscriber} received {events} of {sent}");
        }
        Ok(())
    }
}

/// CPU microseconds of the server for each delivery.
pub(crate) async fn measure(servers: &Servers, in_flight: usize, length: Duration) -> Result<f64> {
    let publish = async |received: &Received| {
        let (_reader, mut writer) = servers.connect(0).await?;
        Ok(publish(servers, &mut writer, in_flight, length, received).await?.cpu)
    };
    subscribed(servers, publish).await
}

/// Latencies of deliveries at half of the throughput, which is measured first.
pub(crate) async fn latency(servers: &Servers, length: Duration) -> Result<Latency> {
    let publish = async |received: &Received| {
        let (_reader, mut writer) = servers.connect(0).await?;
        let full = publish(servers, &mut writer, FULL_LOAD, length, received).await?;
        let schedule = Schedule::new(full.per_second / 2.0, length);
        drop(received.timed.set((full.sent, schedule.clone())));
        publish_openly(servers, writer, &schedule, received).await?;
        received.check(full.sent + schedule.len())?;
        Latency::of(std::mem::take(&mut received.latencies.lock()), length, schedule.len())
    };
    subscribed(servers, publish).await
}

/// Does `publish` while there are subscribers who count what they receive.
async fn subscribed<T>(servers: &Servers, publish: impl AsyncFnOnce(&Received) -> Result<T>) -> Result<T> {
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
    let result = limited("fan-out", publish(&received)).await;
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
        received.add(subscriber, events);
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

async fn publish(
    servers: &Servers,
    writer: &mut Writer,
    in_flight: usize,
    length: Duration,
    received: &Received,
) -> Result<Closed> {
    let publication = servers.publication(TOPIC, std::str::from_utf8(PAYLOAD)?);
    let binary = servers.kind() == Kind::Nats;
    let warm_up = 200.max(in_flight);
    let (mut sent, mut start) = (0_usize, None);
    loop {
        let delivered = received.deliveries()?;
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
    let (at, cpu) = start.expect("the loop ends only after it was set");
    let (cpu, elapsed) = (servers.cpu()? - cpu, at.elapsed());
    received.check(sent)?;
    let events = (sent - warm_up) as f64;
    Ok(Closed {
        cpu: cpu.as_secs_f64() * 1e6 / (events * SUBSCRIBERS as f64),
        per_second: events / elapsed.as_secs_f64(),
        sent,
    })
}

/// Publishes when each event is due, whatever has been delivered, and waits until all are.
async fn publish_openly(servers: &Servers, writer: Writer, schedule: &Schedule, received: &Received) -> Result<()> {
    let publication = servers.publication(TOPIC, std::str::from_utf8(PAYLOAD)?);
    let binary = servers.kind() == Kind::Nats;
    let before = received.deliveries()?;
    let _writer = schedule
        .send(writer, move |frames, _| push_frame(frames, &publication, binary))
        .await?;
    while received.deliveries()? < before + schedule.len() * SUBSCRIBERS {
        received.some.notified().await;
    }
    Ok(())
}
