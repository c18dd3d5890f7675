//! Hubs on a private Redis server, and what they read.

use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_events::{Deliveries, Fabric, Item, Lag, Limits, LinkState, Mailbox, Supervisor, mailbox};
use alkhub_protocol::{HubId, RawJson, Topic, TopicFilter};
use alkhub_test_support::{PATIENCE, RedisServer, within};
use prometheus::Registry;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One hub's fabric, on tasks of its own.
pub(crate) struct Pod {
    pub(crate) fabric: Fabric,
    pub(crate) hub: HubId,
    pub(crate) registry: Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Settings with times that suit a test.
pub(crate) fn config(server: &RedisServer) -> EventsConfig {
    EventsConfig {
        redis_url: Some(server.url().into()),
        timeout: Duration::from_secs(5),
        probe_interval: Duration::from_millis(250),
        unsubscribe_grace: Duration::from_millis(50),
        lease_ttl: Duration::from_millis(1_500),
        lease_interval: Duration::from_millis(300),
        ..EventsConfig::default()
    }
}

// === impl Pod ===

impl Pod {
    /// A hub whose link is up.
    pub(crate) async fn up(server: &RedisServer, name: &str) -> Self {
        let pod = Self::start(&config(server), name);
        pod.is_up().await;
        pod
    }

    pub(crate) fn start(config: &EventsConfig, name: &str) -> Self {
        let (tasks, stop, registry) = (TaskTracker::new(), CancellationToken::new(), Registry::new());
        let hub: HubId = name.parse().expect("a hub id");
        let supervisor = Supervisor::new(tasks.clone(), stop.clone());
        let fabric = Fabric::start(config, &hub, &supervisor, &registry).expect("settings");
        Self {
            fabric,
            hub,
            registry,
            tasks,
            stop,
        }
    }

    pub(crate) async fn is_up(&self) {
        self.link("up", |state| *state == LinkState::Up).await;
    }

    pub(crate) async fn is_down(&self) {
        self.link("down", |state| matches!(state, LinkState::Down(_))).await;
    }

    async fn link(&self, what: &str, wanted: impl Fn(&LinkState) -> bool) {
        let mut link = self.fabric.link();
        let came = timeout(PATIENCE, link.wait_for(|state| wanted(state))).await.is_ok();
        assert!(
            came,
            "the link of {} did not go {what}: {:?}",
            self.hub,
            *self.fabric.link().borrow()
        );
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        within("every task ends", self.tasks.wait()).await;
    }

    pub(crate) async fn publish(&self, topic: &str, payload: u64) {
        self.fabric
            .bus()
            .publish(&self::topic(topic), number(payload))
            .await
            .expect("Redis is up");
    }

    /// The value of a metric, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .expect("a metric of this crate");
        let value =
            |metric: &prometheus::proto::Metric| metric.get_counter().get_value() + metric.get_gauge().get_value();
        family.get_metric().iter().map(value).sum()
    }
}

// === reading ===

/// The next item of a receiver.
pub(crate) async fn receive<T>(what: &str, receiver: &mut tokio::sync::mpsc::Receiver<T>) -> T {
    within(what, receiver.recv()).await.expect("open")
}

pub(crate) async fn next(deliveries: &mut Deliveries) -> Item {
    within("an item", deliveries.next()).await.expect("the mailbox is open")
}

/// The topic and number of the next item, which is an event.
pub(crate) async fn event(deliveries: &mut Deliveries) -> (String, u64) {
    match next(deliveries).await {
        Item::Event(event) => {
            let payload = event.payload.as_ref().expect("a payload");
            (event.topic.to_string(), payload.to().expect("a number"))
        }
        other => panic!("an event was expected: {other:?}"),
    }
}

/// Topic, reason and count of the next item, which is a gap.
pub(crate) async fn gap(deliveries: &mut Deliveries) -> (String, String, Option<u64>) {
    match next(deliveries).await {
        Item::Gap(gap) => (gap.topic, gap.reason, gap.missed),
        other => panic!("a gap was expected: {other:?}"),
    }
}

pub(crate) fn large_mailbox() -> (Mailbox, Deliveries) {
    mailbox(
        Limits {
            items: 100_000,
            bytes: 256 * 1024 * 1024,
        },
        Lag::DropOldest,
    )
}

pub(crate) fn topic(text: &str) -> Topic {
    text.parse().expect("a topic")
}

pub(crate) fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a filter")
}

pub(crate) fn number(value: u64) -> Option<RawJson> {
    Some(RawJson::from_value(&value).expect("a number"))
}
