//! Messages between hubs over two carriers: Redis, and the link from pod to pod, which fails on demand.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use alkhub_hub_cluster::{Class, Incoming, NotSent, PeerEvent};
use alkhub_test_support::{Proxy, RedisServer, until, within};
use tokio::sync::Semaphore;

use crate::support::{Pod, config};

/// How many messages of one direction are on their way at once.
const WINDOW: usize = 500;

/// One direction: what was sent, and what arrived.
struct Direction {
    window: Semaphore,
    sent: AtomicUsize,
    received: AtomicUsize,
}

// === impl Direction ===

impl Direction {
    fn new() -> Self {
        Self {
            window: Semaphore::new(WINDOW),
            sent: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
        }
    }

    /// Sends numbers until it is told to stop, then `end`.
    async fn send(&self, from: &Pod, to: &Pod, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let permit = within("the other side reads", self.window.acquire()).await;
            permit.expect("open").forget();
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            send(from, to, &number.to_string()).await;
        }
        send(from, to, "end").await;
    }

    /// Reads until the end; everything must arrive once and in order.
    async fn read(&self, incoming: &mut Incoming) {
        loop {
            let payload = match within("the next message", incoming.next()).await {
                PeerEvent::Message { payload, .. } => payload,
                other => panic!("{other:?}"),
            };
            if payload == "end" {
                return;
            }
            let next = self.received.fetch_add(1, Ordering::Relaxed);
            assert_eq!(payload, next.to_string());
            self.window.add_permits(1);
        }
    }

    fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }
}

async fn send(from: &Pod, to: &Pod, text: &str) {
    let conduits = from.cluster.conduits();
    while let Err(error) = conduits.send(&to.hub, Class::Item, &[text.as_bytes()]) {
        assert_eq!(error, NotSent::Full);
        tokio::task::yield_now().await;
    }
}

/// Two hubs, and the link between them: the one with the smaller id dials the other.
async fn linked(server: &RedisServer) -> (Pod, Pod, Proxy) {
    let (a, _) = Pod::linked(&config(server), "a").await;
    let (b, link) = Pod::linked(&config(server), "b").await;
    (a, b, link)
}

/// A hub, what arrives at it, and what it sends.
type End<'a> = (&'a Pod, &'a mut Incoming, &'a Direction);

/// Lets both hubs send and read until they are told to stop.
async fn both((a, to_a, there): End<'_>, (b, to_b, back): End<'_>, stop: &AtomicBool) {
    tokio::join!(
        there.send(a, b, stop),
        back.send(b, a, stop),
        there.read(to_b),
        back.read(to_a)
    );
}

/// What happens to the link while both hubs send.
async fn trouble((a, b): (&Pod, &Pod), link: &Proxy, [there, back]: [&Direction; 2]) {
    for round in 0..12 {
        let passed = there.received() + back.received();
        until("messages pass", || async {
            let more = there.received() + back.received() - passed;
            if more >= 2_000 { Ok(()) } else { Err(more) }
        })
        .await;
        match round % 4 {
            0 => link.cut(),
            // What is on its way is stuck, and the connection looks fine until its pings are missed.
            2 => link.hold(),
            _ => link.heal(),
        }
        let links = if round % 2 == 0 { 0.0 } else { 1.0 };
        a.has_links(links).await;
        b.has_links(links).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_the_link_everything_arrives_once_and_in_order_both_ways() {
    let server = RedisServer::start().await;
    let (a, b, link) = linked(&server).await;
    a.has_links(1.0).await;
    let incoming = |pod: &Pod| pod.cluster.incoming().expect("asked for once");
    let (mut to_a, mut to_b) = (incoming(&a), incoming(&b));
    let (there, back, stop) = (Direction::new(), Direction::new(), AtomicBool::new(false));

    let trouble = async {
        trouble((&a, &b), &link, [&there, &back]).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(both((&a, &mut to_a, &there), (&b, &mut to_b, &back), &stop), trouble);

    for direction in [&there, &back] {
        assert_eq!(direction.sent.load(Ordering::Relaxed), direction.received());
    }
    for pod in [&a, &b] {
        assert_eq!(pod.host.metric("alkhub_conduit_breaks_total"), 0.0);
        for carrier in ["link", "redis"] {
            assert!(carried(pod, carrier) > 1_000.0, "{carrier}: {}", carried(pod, carrier));
        }
    }
}

/// How many messages went by one carrier.
fn carried(pod: &Pod, carrier: &str) -> f64 {
    let families = pod.host.registry.gather();
    let family = families
        .iter()
        .find(|family| family.name() == "alkhub_conduit_messages_total");
    let metrics = family.expect("a metric").get_metric();
    let metric = metrics.iter().find(|metric| metric.get_label()[0].value() == carrier);
    metric.expect("a series from the start").get_counter().get_value()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_stands_still_messages_go_on_over_the_link() {
    let server = RedisServer::start().await;
    let (a, b, _link) = linked(&server).await;
    a.has_links(1.0).await;
    b.has_links(1.0).await;
    let mut to_b = b.cluster.incoming().expect("asked for once");
    let mut to_a = a.cluster.incoming().expect("asked for once");
    server.freeze();
    a.is_down().await;
    b.is_down().await;

    let (there, back) = (Direction::new(), Direction::new());
    let stop = AtomicBool::new(false);
    let enough = async {
        until("many messages have passed", || async {
            let passed = there.received().min(back.received());
            if passed >= 1_000 { Ok(()) } else { Err(passed) }
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(both((&a, &mut to_a, &there), (&b, &mut to_b, &back), &stop), enough);

    server.thaw();
    a.is_up().await;
    send(&a, &b, "end").await;
    there.read(&mut to_b).await;
    assert_eq!(a.host.metric("alkhub_conduit_breaks_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_that_cannot_dial_each_other_speak_through_redis() {
    let server = RedisServer::start().await;
    let (a, b, link) = linked(&server).await;
    link.cut();
    a.has_links(0.0).await;
    let mut to_b = b.cluster.incoming().expect("asked for once");
    let _to_a = a.cluster.incoming();

    send(&a, &b, "end").await;

    Direction::new().read(&mut to_b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_without_the_port_and_one_with_it_speak_through_redis() {
    let server = RedisServer::start().await;
    let (a, _) = Pod::linked(&config(&server), "a").await;
    let b = Pod::up(&server, "b").await;
    let mut to_b = b.cluster.incoming().expect("asked for once");

    send(&a, &b, "end").await;

    Direction::new().read(&mut to_b).await;
    assert_eq!(a.host.metric("alkhub_peer_links"), 0.0);
}
