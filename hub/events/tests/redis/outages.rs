//! What subscribers and publishers see when Redis goes away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alkhub_config::EventsConfig;
use alkhub_events::{Deliveries, Item, SubscribeError, Subscription};
use alkhub_protocol::Delivered;
use alkhub_redis::Error;
use alkhub_test_support::{RedisServer, until};
use futures::StreamExt as _;
use tokio::task::JoinHandle;

use crate::support::{Pod, config, event, filter, gap, large_mailbox, next, number, topic, value};

/// Publishes numbers round robin on topics until told to stop, and counts those that Redis confirmed.
struct Load {
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    task: JoinHandle<Published>,
}

/// What was published.
struct Published {
    /// The next number.
    next: u64,
    /// Topic and number of each event for which the publisher got an error: no subscriber needs to get it.
    refused: HashSet<(u64, u64)>,
}

// === impl Load ===

impl Load {
    fn start(pod: &Pod, topics: u64) -> Self {
        let (stop, confirmed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted, bus) = (stop.clone(), confirmed.clone(), pod.bus.clone());
        let publish = async move {
            let (mut sequence, mut refused) = (0, HashSet::new());
            while !stopped.load(Ordering::Relaxed) {
                let sent = futures::stream::iter(0..topics).map(|index| {
                    let bus = &bus;
                    async move { bus.publish(&topic(&format!("load:{index}")), number(sequence)).await }
                });
                let results: Vec<_> = sent.buffered(64).collect().await;
                let failed = (0..topics).zip(&results).filter(|(_, result)| result.is_err());
                let failed: Vec<_> = failed.map(|(index, _)| (index, sequence)).collect();
                counted.fetch_add(topics - failed.len() as u64, Ordering::Relaxed);
                sequence += 1;
                if !failed.is_empty() {
                    refused.extend(failed);
                    tokio::task::yield_now().await;
                }
            }
            Published {
                next: sequence,
                refused,
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
        let task = tokio::spawn(publish);
        Self { stop, confirmed, task }
    }

    async fn runs(&self) {
        let before = self.confirmed.load(Ordering::Relaxed);
        until("publishing goes on", || async {
            let now = self.confirmed.load(Ordering::Relaxed);
            if now > before + 2_000 {
                Ok(())
            } else {
                Err(format!("{now} confirmed, {before} before"))
            }
        })
        .await;
    }

    async fn stop(self) -> Published {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("publishing ends")
    }
}

async fn subscribe_all(pod: &Pod, topics: u64) -> (Vec<Subscription>, Deliveries) {
    let (mailbox, deliveries) = large_mailbox();
    let mut subscriptions = Vec::new();
    for index in 0..topics {
        let filter = filter(&format!("load:{index}"));
        subscriptions.push(pod.bus.subscribe(filter, &mailbox).await.expect("up"));
    }
    (subscriptions, deliveries)
}

/// Reads everything up to the last number of each topic. Fails if an event that was confirmed to its publisher is
/// missing without a gap before its successor. Returns the number of gaps, and of events that they covered.
async fn audit(deliveries: &mut Deliveries, topics: u64, published: &Published) -> (u64, u64) {
    let mut expected: HashMap<String, u64> = (0..topics).map(|index| (format!("load:{index}"), 0)).collect();
    let mut gapped: HashMap<String, u64> = HashMap::new();
    let (mut gaps, mut lost, mut open) = (0, 0, topics);
    let last = published.next;
    while open > 0 {
        match next(deliveries).await {
            Item::Gap(gap) => {
                assert_eq!(gap.reason, "reconnected");
                gaps += 1;
                *gapped.entry(gap.topic).or_default() += 1;
            }
            Item::Event(event) => {
                let name = event.topic.to_string();
                let value = value(&event);
                let next = expected.get_mut(&name).expect("a topic of ours");
                assert!(value >= *next, "{name} went back from {next} to {value}");
                let index: u64 = event.topic.id().parse().expect("a number");
                let missing = (*next..value)
                    .filter(|value| !published.refused.contains(&(index, *value)))
                    .count() as u64;
                assert!(
                    missing == 0 || gapped.remove(&name).is_some(),
                    "{name} lost {missing} before {value} in silence"
                );
                lost += missing;
                *next = value + 1;
                open -= u64::from(value == last);
            }
        }
    }
    (gaps, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_under_load_loses_nothing_in_silence() {
    const TOPICS: u64 = 1_000;
    let mut server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (_subscriptions, mut deliveries) = subscribe_all(&a, TOPICS).await;
    let load = Load::start(&b, TOPICS);

    for _ in 0..3 {
        load.runs().await;
        server.kill().await;
        a.is_down().await;
        b.is_down().await;
        server.launch().await;
        a.is_up().await;
        b.is_up().await;
    }
    load.runs().await;
    let published = load.stop().await;
    for index in 0..TOPICS {
        b.publish(&format!("load:{index}"), published.next).await;
    }

    let (gaps, lost) = audit(&mut deliveries, TOPICS, &published).await;
    println!(
        "{gaps} gaps covered {lost} events of {} rounds on {TOPICS} topics over 3 restarts",
        published.next
    );
    // There may be more reconnects than kills: on a busy machine a new link may break at once, which counts as well.
    let reconnects = a.host.metric("alkhub_redis_reconnects_total");
    assert!(reconnects >= 3.0, "{reconnects}");
    assert!(gaps >= 3 * TOPICS, "every subscriber was told each time: {gaps}");
    assert!(gaps as f64 <= reconnects * TOPICS as f64, "{gaps} of {reconnects}");
    assert!(a.host.metric("alkhub_events_gaps_total") >= gaps as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_by_redis_is_made_anew() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (subscriptions, mut deliveries) = subscribe_all(&a, 20).await;
    let load = Load::start(&b, 20);

    for kind in ["pubsub", "normal", "pubsub"] {
        load.runs().await;
        let before = (
            a.host.metric("alkhub_redis_reconnects_total"),
            b.host.metric("alkhub_redis_reconnects_total"),
        );
        // The test's own connection is of the type `normal` too, but `SKIPME` spares it.
        server
            .query::<i64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
            .await;
        until("both hubs connect anew", || async {
            // A connection that is not in use is only found dead when it is next used.
            drop(a.bus.publish(&topic("other:1"), number(0)).await);
            let after = (
                a.host.metric("alkhub_redis_reconnects_total"),
                b.host.metric("alkhub_redis_reconnects_total"),
            );
            if after.0 > before.0 && after.1 > before.1 {
                Ok(())
            } else {
                Err(format!("{before:?} {after:?}"))
            }
        })
        .await;
        a.is_up().await;
        b.is_up().await;
    }
    load.runs().await;
    let published = load.stop().await;
    for index in 0..20 {
        b.publish(&format!("load:{index}"), published.next).await;
    }

    let (gaps, lost) = audit(&mut deliveries, 20, &published).await;
    println!("{gaps} gaps covered {lost} events");
    assert!(gaps >= 3 * 20);
    drop(subscriptions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_went_silent_is_found_by_the_probe() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (_subscriptions, mut deliveries) = subscribe_all(&a, 1).await;

    server.freeze();
    a.is_down().await;
    let refused = b.bus.publish(&topic("load:0"), None).await;
    server.thaw();
    a.is_up().await;
    b.is_up().await;
    b.publish("load:0", 1).await;

    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(
        gap(&mut deliveries).await,
        ("load:0".to_owned(), "reconnected".to_owned(), None)
    );
    assert_eq!(event(&mut deliveries).await.1, 1);
    assert!(a.host.metric("alkhub_redis_reconnects_total") >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_each_request_is_answered_at_once() {
    let mut server = RedisServer::reserve();
    let pod = Pod::start(&config(&server), "a");
    let (mailbox, mut deliveries) = large_mailbox();

    let publish = pod.bus.publish(&topic("t:1"), None).await.expect_err("down");
    let subscribe = pod.bus.subscribe(filter("t:1"), &mailbox).await.expect_err("down");

    assert_eq!(publish.delivered, Delivered::No);
    assert!(
        matches!(subscribe, SubscribeError(Error::Unavailable(_))),
        "{subscribe}"
    );
    server.launch().await;
    pod.is_up().await;
    assert_eq!(pod.host.metric("alkhub_redis_up"), 1.0);
    let _subscription = pod.bus.subscribe(filter("t:1"), &mailbox).await.expect("up");
    server.kill().await;
    pod.is_down().await;
    let publish = pod.bus.publish(&topic("t:1"), number(1)).await.expect_err("down");
    assert_eq!(publish.delivered, Delivered::Maybe, "the subscriber of this hub has it");
    assert_eq!(event(&mut deliveries).await.1, 1);
    assert_eq!(pod.host.metric("alkhub_redis_up"), 0.0);
    pod.host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_hub_can_spread_becomes_gaps_and_not_memory() {
    let server = RedisServer::start().await;
    let config = EventsConfig {
        link_queue: 16,
        ..config(&server)
    };
    let a = Pod::start(&config, "a");
    a.is_up().await;
    let (_subscriptions, mut deliveries) = subscribe_all(&a, 1).await;
    let mut flood = redis::pipe();
    for sequence in 0..20_000 {
        let text = format!(r#"{{"type":"load","id":"0","payload":{sequence}}}"#);
        flood.cmd("PUBLISH").arg("alk:events:load:0").arg(text).ignore();
    }

    flood
        .query_async::<()>(&mut server.client().await)
        .await
        .expect("published");
    until("the link is made anew", || async {
        let made = a.host.metric("alkhub_redis_reconnects_total");
        if made >= 1.0 { Ok(()) } else { Err(format!("{made}")) }
    })
    .await;
    a.is_up().await;
    server
        .query::<i64>(&[
            "PUBLISH",
            "alk:events:load:0",
            r#"{"type":"load","id":"0","payload":20000}"#,
        ])
        .await;

    let published = Published {
        next: 20_000,
        refused: HashSet::new(),
    };
    let (gaps, lost) = audit(&mut deliveries, 1, &published).await;
    assert!(gaps >= 1 && lost > 0, "{gaps} gaps, {lost} lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hundred_thousand_topics_are_confirmed_again_after_a_restart() {
    const TOPICS: u64 = 100_000;
    let mut server = RedisServer::start().await;
    let config = EventsConfig {
        link_queue: 65_536,
        ..config(&server)
    };
    let pod = Pod::start(&config, "a");
    pod.is_up().await;
    let (mailbox, mut deliveries) = large_mailbox();
    let bus = &pod.bus;
    let subscribe = futures::stream::iter(0..TOPICS).map(|index| {
        let mailbox = &mailbox;
        async move { bus.subscribe(filter(&format!("t:{index}")), mailbox).await.expect("up") }
    });
    let subscriptions: Vec<_> = subscribe.buffer_unordered(2_048).collect().await;

    server.kill().await;
    pod.is_down().await;
    server.launch().await;
    assert_eq!(gap(&mut deliveries).await.1, "reconnected");
    let start = tokio::time::Instant::now();
    for _ in 1..TOPICS {
        assert_eq!(gap(&mut deliveries).await.1, "reconnected");
    }
    println!("{TOPICS} topics were confirmed again within {:?}", start.elapsed());
    pod.is_up().await;
    assert!(deliveries.try_next().is_none());
    drop(subscriptions);
}
