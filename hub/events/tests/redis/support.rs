//! Hubs on a private Redis server, and what they read.

use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_events::{Bus, Deliveries, Item, Limits, Mailbox, Publication, mailbox};
use alkhub_protocol::{Envelope, RawJson, Topic, TopicFilter};
use alkhub_redis::{Connector, LinkState};
use alkhub_tasks::Supervisor;
use alkhub_test_support::{Host, RedisServer, comes_to, within};
use tokio::sync::watch;

/// One hub's bus.
pub(crate) struct Pod {
    pub(crate) bus: Bus,
    pub(crate) host: Host,
    link: Option<watch::Receiver<LinkState>>,
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
        let host = Host::default();
        let hub = name.parse().expect("a hub id");
        let mut connector = Connector::new(config, &hub, &host.registry).expect("settings");
        let bus = Bus::new(config, &mut connector, &host.registry).expect("fresh metrics");
        let link = connector.state();
        connector.start(&Supervisor::new(host.tasks.clone(), host.stop.clone()));
        Self { bus, host, link }
    }

    pub(crate) async fn is_up(&self) {
        comes_to("the link is up", self.link(), LinkState::is_up).await;
    }

    fn link(&self) -> &watch::Receiver<LinkState> {
        self.link.as_ref().expect("there is Redis")
    }

    pub(crate) async fn is_down(&self) {
        comes_to("the link is down", self.link(), |state| {
            matches!(state, LinkState::Down(_))
        })
        .await;
    }

    pub(crate) async fn publish(&self, topic: &str, payload: u64) {
        self.bus
            .publish(&self::topic(topic), number(payload))
            .await
            .expect("Redis is up");
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
