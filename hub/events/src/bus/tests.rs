//! What the table keeps of subscriptions while the link is down.

use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_redis::{Connector, Error, LinkState};
use alkhub_tasks::Supervisor;
use alkhub_test_support::{RedisServer, until, within};
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::Limits;
use crate::mailbox::{Deliveries, mailbox};

fn bus(server: &RedisServer) -> (Bus, watch::Receiver<LinkState>) {
    let config = EventsConfig {
        redis_url: Some(server.url().into()),
        unsubscribe_grace: Duration::from_millis(50),
        ..EventsConfig::default()
    };
    let (hub, registry) = ("a".parse().expect("a hub id"), Registry::new());
    let mut connector = Connector::new(&config, &hub, &registry).expect("settings");
    let bus = Bus::new(&config, &mut connector, &registry).expect("fresh metrics");
    let link = connector.state().expect("there is Redis");
    connector.start(&Supervisor::new(TaskTracker::new(), CancellationToken::new()));
    (bus, link)
}

async fn link_is(link: &mut watch::Receiver<LinkState>, wanted: impl FnMut(&LinkState) -> bool) {
    let state = within("the state of the link", link.wait_for(wanted)).await;
    assert!(state.is_ok(), "the link lives");
}

fn reader() -> (Mailbox, Deliveries) {
    let limits = Limits {
        items: 10,
        bytes: 1 << 20,
    };
    mailbox(limits)
}

fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a filter")
}

#[tokio::test]
async fn a_subscription_that_is_refused_while_the_link_is_down_leaves_no_entry() {
    let server = RedisServer::reserve();
    let (bus, _link) = bus(&server);
    let (mailbox, _deliveries) = reader();

    let refused = bus.subscribe(filter("t:1"), &mailbox).await;

    assert!(
        matches!(refused, Err(SubscribeError(Error::Unavailable(_)))),
        "{refused:?}"
    );
    assert_eq!(bus.inner.table.incarnation(&filter("t:1")), None);
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_forgotten_while_the_link_is_down() {
    let mut server = RedisServer::start().await;
    let (bus, mut link) = bus(&server);
    link_is(&mut link, |state| *state == LinkState::Up).await;
    let (mailbox, _deliveries) = reader();
    let subscription = bus.subscribe(filter("t:1"), &mailbox).await.expect("up");
    server.kill().await;
    link_is(&mut link, |state| matches!(state, LinkState::Down(_))).await;

    drop(subscription);

    let table = &bus.inner.table;
    until("the entry to go", async || {
        table.incarnation(&filter("t:1")).map_or(Ok(()), Err)
    })
    .await;
}
