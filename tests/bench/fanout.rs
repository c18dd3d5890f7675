//! One publisher and its subscribers: a thousand for one topic, or one for each of many topics on another server.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
use crate::system::{Kind, PAYLOAD, Servers, contains, limited};
use crate::ws::{Reader, Writer, push_frame};

/// Many subscribers to one topic, on the publisher's server.
pub(crate) const ONE_TOPIC: Audience = Audience {
    subscribers: 1_000,
    topics: 1,
    node: 0,
};

/// Many topics with one subscriber each, on the other server.
pub(crate) const MANY_TOPICS: Audience = Audience {
    subscribers: 200,
    topics: 200,
    node: 1,
};

/// How many events wait for their delivery while throughput is measured.
pub(crate) const FULL_LOAD: usize = 64;

/// What is published until everybody is known to receive: with two servers it takes a moment until both know who
/// subscribes.
const EARLY: &[u8] = &[b'e'; 128];

/// Who subscribes, and where. Subscribers and events are divided equally among the topics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Audience {
    subscribers: usize,
    topics: usize,
    node: usize,
}

/// What the subscribers have received in total.
#[derive(Debug)]
struct Received {
    audience: Audience,
    count: AtomicUsize,
    /// The events of each subscriber.
    each: Vec<AtomicUsize>,
    /// Whether each subscriber has received anything.
    ready: Vec<AtomicBool>,
    some: Notify,
    /// Why one of them ended early.
    fault: OnceLock<anyhow::Error>,
    /// The number of the first event whose latency is measured, and when it and those after it are due.
    timed: OnceLock<(usize, Schedule)>,
    latencies: Mutex<Vec<Duration>>,
}

/// The cost of deliveries, where each event is sent as soon as another was delivered to all.
struct Closed {
    /// CPU microseconds of the server per delivery.
    cpu: f64,
    /// How many events are delivered to all per second.
    per_second: f64,
    /// How many events were sent in total.
    sent: usize,
}

// === impl Audience ===

impl Audience {
    /// How many deliveries each event has.
    fn copies(self) -> usize {
        self.subscribers / self.topics
    }

    fn topic(number: usize) -> String {
        format!("bench.fanout:{number}")
    }

    /// The frames of one event for each topic.
    fn publications(self, servers: &Servers, payload: &[u8]) -> Result<Vec<Vec<u8>>> {
        let payload = std::str::from_utf8(payload)?;
        let each = (0..self.topics).map(|topic| servers.publication(&Self::topic(topic), payload));
        Ok(each.collect())
    }

    /// How many of `sent` events belong to a subscriber's topic.
    fn of(self, subscriber: usize, sent: usize) -> usize {
        sent.saturating_sub(subscriber % self.topics).div_ceil(self.topics)
    }
}

// === impl Received ===

impl Received {
    fn new(audience: Audience) -> Self {
        Self {
            audience,
            count: AtomicUsize::new(0),
            each: (0..audience.subscribers).map(|_| AtomicUsize::new(0)).collect(),
            ready: (0..audience.subscribers).map(|_| AtomicBool::new(false)).collect(),
            some: Notify::new(),
            fault: OnceLock::new(),
            timed: OnceLock::new(),
            latencies: Mutex::default(),
        }
    }

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

    /// How many deliveries there have been.
    fn deliveries(&self) -> Result<usize> {
        match self.fault.get() {
            Some(fault) => bail!("a subscriber ended early: {fault:#}"),
            None => Ok(self.count.load(Ordering::Acquire)),
        }
    }

    /// Fails unless each subscriber has received each of its events.
    fn check(&self, sent: usize) -> Result<()> {
        for (subscriber, events) in self.each.iter().enumerate() {
            let (events, sent) = (events.load(Ordering::Relaxed), self.audience.of(subscriber, sent));
            ensure!(events == sent, "subscriber {subscriber} received {events} of {sent}");
        }
        Ok(())
    }
}

/// CPU microseconds of all servers per delivery.
pub(crate) async fn measure(servers: &Servers, audience: Audience, in_flight: usize, length: Duration) -> Result<f64> {
    let publish = async |received: &Received| {
        let (_reader, mut writer) = servers.connect(0).await?;
        Ok(publish(servers, &mut writer, in_flight, length, received).await?.cpu)
    };
    subscribed(servers, audience, publish).await
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
    subscribed(servers, ONE_TOPIC, publish).await
}

/// Runs `publish` while subscribers count what they receive.
async fn subscribed<T>(
    servers: &Servers,
    audience: Audience,
    publish: impl AsyncFnOnce(&Received) -> Result<T>,
) -> Result<T> {
    let received = Arc::new(Received::new(audience));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut writers = Vec::new();
    for subscriber in 0..audience.subscribers {
        let (mut reader, mut writer) = servers.connect(audience.node).await?;
        let topic = Audience::topic(subscriber % audience.topics);
        servers.subscribe(&mut reader, &mut writer, &topic).await?;
        writers.push(writer);
        let (kind, received) = (servers.kind(), Arc::clone(&received));
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            if let Err(fault) = count(kind, reader, subscriber, &received).await {
                received.fault.get_or_init(|| fault);
                received.some.notify_one();
            }
        }));
    }
    let result = limited("events", async {
        if audience.node > 0 {
            ready(servers, &received).await?;
        }
        publish(&received).await
    })
    .await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    result
}

/// Publishes until each subscriber has received something.
async fn ready(servers: &Servers, received: &Received) -> Result<()> {
    let (_reader, mut writer) = servers.connect(0).await?;
    let publications = received.audience.publications(servers, EARLY)?;
    let is_deaf = |topic: &usize| !received.ready[*topic].load(Ordering::Acquire);
    loop {
        let deaf: Vec<usize> = (0..received.audience.subscribers).filter(is_deaf).collect();
        if deaf.is_empty() {
            return Ok(());
        }
        received.deliveries()?;
        let mut frames = Vec::new();
        for subscriber in deaf {
            let publication = &publications[subscriber % received.audience.topics];
            push_frame(&mut frames, publication, servers.kind() == Kind::Nats);
        }
        writer.send_raw(&frames).await?;
        // Whether or not anything comes, check again who lacks something.
        drop(tokio::time::timeout(Duration::from_millis(100), received.some.notified()).await);
    }
}

/// Counts what one subscriber receives, until a fault.
async fn count(kind: Kind, mut reader: Reader, subscriber: usize, received: &Received) -> Result<()> {
    loop {
        let mut events = events(kind, &reader.next().await?)?;
        while let Some(message) = reader.arrived()? {
            events += self::events(kind, &message)?;
        }
        received.ready[subscriber].store(true, Ordering::Release);
        received.add(subscriber, events);
    }
}

/// How many whole events a message carries, not counting the early ones.
fn events(kind: Kind, message: &[u8]) -> Result<usize> {
    let mut count = 0;
    match kind {
        Kind::Alkhub => {
            let is_event = contains(message, PAYLOAD);
            ensure!(
                is_event || contains(message, EARLY),
                "no event: {}",
                String::from_utf8_lossy(message)
            );
            count += usize::from(is_event);
        }
        Kind::Nats => nats::deliveries(message, |delivery| {
            let is_event = delivery.payload == PAYLOAD;
            ensure!(is_event || delivery.payload == EARLY, "another payload");
            count += usize::from(is_event);
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
    let publications = received.audience.publications(servers, PAYLOAD)?;
    let (copies, binary) = (received.audience.copies(), servers.kind() == Kind::Nats);
    let warm_up = 200.max(in_flight);
    let (mut sent, mut start) = (0_usize, None);
    loop {
        let delivered = received.deliveries()?;
        ensure!(delivered <= sent * copies, "more deliveries than there can be");
        if sent == warm_up && delivered == sent * copies && start.is_none() {
            start = Some((Instant::now(), servers.cpu()?));
        }
        let over = start.is_some_and(|(at, _)| at.elapsed() >= length);
        if over && delivered == sent * copies {
            break;
        }
        let window = in_flight.saturating_sub(sent - delivered / copies);
        let window = if start.is_none() {
            window.min(warm_up - sent)
        } else {
            window
        };
        if over || window == 0 {
            received.some.notified().await;
            continue;
        }
        let mut frames = Vec::new();
        for number in sent..sent + window {
            push_frame(&mut frames, &publications[number % publications.len()], binary);
        }
        writer.send_raw(&frames).await?;
        sent += window;
    }
    let (at, cpu) = start.expect("the loop ends only after it was set");
    let (cpu, elapsed) = (servers.cpu()? - cpu, at.elapsed());
    received.check(sent)?;
    let events = (sent - warm_up) as f64;
    Ok(Closed {
        cpu: cpu.as_secs_f64() * 1e6 / (events * copies as f64),
        per_second: events / elapsed.as_secs_f64(),
        sent,
    })
}

/// Publishes each event when it is due, whatever has been delivered, and waits until all are delivered.
async fn publish_openly(servers: &Servers, writer: Writer, schedule: &Schedule, received: &Received) -> Result<()> {
    let publications = received.audience.publications(servers, PAYLOAD)?;
    let binary = servers.kind() == Kind::Nats;
    let before = received.deliveries()?;
    let _writer = schedule
        .send(writer, move |frames, number| {
            push_frame(frames, &publications[number % publications.len()], binary);
        })
        .await?;
    while received.deliveries()? < before + schedule.len() * received.audience.copies() {
        received.some.notified().await;
    }
    Ok(())
}
