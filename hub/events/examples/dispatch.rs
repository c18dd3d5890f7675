//! Prints what an event costs: `cargo run --release -p alkhub-events --example dispatch [REDIS_URL]`.
//!
//! One thread, so that the time on the clock is the time of the CPU. Fan-out to 1,000 readers in process, one event
//! at a time and 64 in flight; with the URL of a Redis also two hubs, 200 topics with one subscriber each.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_events::{Bus, Deliveries, Limits, Subscription, mailbox};
use alkhub_protocol::{RawJson, Topic};
use alkhub_redis::{Connector, LinkState};
use alkhub_tasks::Supervisor;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const LIMITS: Limits = Limits {
    items: 4_096,
    bytes: 4 * 1024 * 1024,
};
const READERS: u32 = 1_000;
const TOPICS: u32 = 200;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let start = |name: &str, url: Option<&str>| {
        let config = EventsConfig {
            redis_url: url.map(Into::into),
            ..EventsConfig::default()
        };
        let registry = prometheus::Registry::new();
        let mut connector = Connector::new(&config, &name.parse()?, &registry)?;
        let bus = Bus::new(&config, &mut connector, &registry)?;
        let link = connector.state();
        connector.start(&Supervisor::new(tasks.clone(), stop.clone()));
        Ok::<_, Box<dyn Error>>((bus, link))
    };
    let (local, _) = start("local", None)?;
    for in_flight in [1, 64] {
        fan_out(&local, &tasks, in_flight).await?;
    }
    if let Some(url) = std::env::args().nth(1) {
        let ((a, mut link_a), (b, mut link_b)) = (start("a", Some(&url))?, start("b", Some(&url))?);
        for link in [&mut link_a, &mut link_b].into_iter().flatten() {
            link.wait_for(LinkState::is_up).await?;
        }
        for in_flight in [1, 64] {
            across(&a, &b, in_flight).await?;
        }
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// One topic, many readers, each a task of its own.
async fn fan_out(bus: &Bus, tasks: &TaskTracker, in_flight: u32) -> Result<(), Box<dyn Error>> {
    let (done, mut read) = mpsc::channel(READERS as usize * 64);
    let mut subscriptions: Vec<Subscription> = Vec::new();
    for _ in 0..READERS {
        let (mailbox, mut deliveries) = mailbox(LIMITS);
        subscriptions.push(bus.subscribe("bench:1".parse()?, &mailbox).await?);
        let done = done.clone();
        tasks.spawn(async move {
            while deliveries.next().await.is_some() {
                let mut count = 1_u32;
                while deliveries.try_next().is_some() {
                    count += 1;
                }
                if done.send(count).await.is_err() {
                    return;
                }
            }
        });
    }
    let (topic, payload, rounds) = ("bench:1".parse()?, payload()?, 2_000 / in_flight.min(20));
    let (start, mut pushing) = (Instant::now(), Duration::ZERO);
    for _ in 0..rounds {
        let before = Instant::now();
        for _ in 0..in_flight {
            bus.publish(&topic, Some(payload.clone())).await?;
        }
        pushing += before.elapsed();
        let mut open = READERS * in_flight;
        while open > 0 {
            open -= read.recv().await.ok_or("a reader ended")?;
        }
    }
    let deliveries = rounds * in_flight * READERS;
    println!(
        "1 -> {READERS} in process, {in_flight:>2} in flight: {:?} for a delivery, {:?} of it in publish",
        start.elapsed() / deliveries,
        pushing / deliveries,
    );
    Ok(())
}

/// Many topics with one subscriber on the other hub each.
async fn across(from: &Bus, to: &Bus, in_flight: usize) -> Result<(), Box<dyn Error>> {
    let (mailbox, mut deliveries): (_, Deliveries) = mailbox(LIMITS);
    let topics: Vec<Topic> = (0..TOPICS)
        .map(|id| format!("bench:{id}").parse())
        .collect::<Result<_, _>>()?;
    let mut subscriptions: Vec<Subscription> = Vec::new();
    for topic in &topics {
        subscriptions.push(to.subscribe(topic.to_string().parse()?, &mailbox).await?);
    }
    let (payload, rounds) = (payload()?, 50);
    let start = Instant::now();
    for _ in 0..rounds {
        let sent = futures::stream::iter(&topics).map(|topic| from.publish(topic, Some(payload.clone())));
        let receive = async {
            for _ in 0..TOPICS {
                deliveries.next().await;
            }
        };
        futures::join!(sent.buffer_unordered(in_flight).for_each(|_| async {}), receive);
    }
    println!(
        "1 -> 1 over Redis on {TOPICS} topics, {in_flight:>2} in flight: {:?} for an event (both hubs, without Redis)",
        start.elapsed() / (rounds * TOPICS),
    );
    Ok(())
}

fn payload() -> Result<RawJson, serde_json::Error> {
    RawJson::from_value(&"x".repeat(90))
}
