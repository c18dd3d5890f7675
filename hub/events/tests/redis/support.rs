//! Hubs on a private Redis server, and what they read.

use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_events::{Bus, Deliveries, Item, Limits, Mailbox, Publication, mailbox};
use alkhub_protocol::{Envelope, RawJson, Topic, TopicFilter};
use alkhub_redis::{Connector, LinkState};
use alkhub_tasks::Supervisor;
use alkhub_test_support::{PATIENCE, RedisServer, within};
use prometheus::Registry;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One hub's bus, on tasks of its own.
pub(crate) struct Pod {
    pub(crate) bus: Bus,
    link: watch::Receiver<LinkState>,
    registry: Registry,
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
        let mut connector = Connector::new(config, &name.parse().expect("a hub id"), &registry).expect("settings");
        let bus = Bus::new(config, &mut connector, &registry).expect("fresh metrics");
        let link = connector.state();
        connector.start(&Supervisor::new(tasks.clone(), stop.clone()));
        Self {
            bus,
            link,
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
        let mut link = self.link.clone();
        let came = timeout(PATIENCE, link.wait_for(|state| wanted(state))).await.is_ok();
        assert!(came, "the link did not go {what}: {:?}", *self.link.borrow());
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        within("every task ends", self.tasks.wait()).await;
    }

    pub(crate) async fn publish(&self, topic: &str, payload: u64) {
        self.bus
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
            .expect("a metric of the bus or its link");
        let value =
            |metric: &prometheus::proto::Metric| metric.get_counter().get_value() + metric.get_gauge().get_value();
        family.get_metric().iter().map(value).sum()
    }
}

// === reading ===

pub(crate) async fn next(deliveries: &mut Deliveries) -> Item {
    within("an item", deliveries.next()).await.expect("the mailbox is open")
}

/// The topic and number of the next item, which is an event.
pub(crate) async fn event(deliveries: &mut Deliveries) -> (String, u64) {
    match next(deliveries).await {
        Item::Event(event) => (event.topic.to_string(), value(&event)),
        other => panic!("an event was expected: {other:?}"),
    }
}

/// The number that an event was published with.
pub(crate) fn value(event: &Publication) -> u64 {
    let envelope = Envelope::decode(event.text()).expect("an envelope");
    envelope.payload.expect("a payload").to().expect("a number")
}

/// Topic, reason and count of the next item, which is a gap.
pub(crate) async fn gap(deliveries: &mut Deliveries) -> (String, String, Option<u64>) {
    match next(deliveries).await {
        Item::Gap(gap) => (gap.topic, gap.reason, gap.missed),
        other => panic!("a gap was expected: {other:?}"),
    }
}

pub(crate) fn large_mailbox() -> (Mailbox, Deliveries) {
    mailbox(Limits {
        items: 100_000,
        bytes: 256 * 1024 * 1024,
    })
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
