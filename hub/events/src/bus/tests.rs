//! Tests of what the table keeps of subscriptions while the link is down.

use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_tasks::Supervisor;
use alkhub_test_support::{RedisServer, until, within};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::{Deliveries, Fabric, Lag, Limits, LinkState, mailbox};

fn fabric(server: &RedisServer) -> Fabric {
    let config = EventsConfig {
        redis_url: Some(server.url().into()),
        unsubscribe_grace: Duration::from_millis(50),
        ..EventsConfig::default()
    };
    let supervisor = Supervisor::new(TaskTracker::new(), CancellationToken::new());
    let hub = "a".parse().expect("a hub id");
    Fabric::start(&config, &hub, &supervisor, &Registry::new()).expect("settings")
}

async fn link_is(fabric: &Fabric, wanted: impl FnMut(&LinkState) -> bool) {
    let mut link = fabric.link();
    let state = within("the state of the link", link.wait_for(wanted)).await;
    assert!(state.is_ok(), "the fabric lives");
}

fn reader() -> (Mailbox, Deliveries) {
    let limits = Limits {
        items: 10,
        bytes: 1 << 20,
    };
    mailbox(limits, Lag::DropOldest)
}

fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a filter")
}

#[tokio::test]
async fn a_subscription_that_is_refused_while_the_link_is_down_leaves_no_entry() {
    let server = RedisServer::reserve();
    let fabric = fabric(&server);
    let (mailbox, _deliveries) = reader();

    let refused = fabric.bus().subscribe(filter("t:1"), &mailbox).await;

    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(fabric.bus().shared.table.session(&filter("t:1")), None);
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_forgotten_while_the_link_is_down() {
    let mut server = RedisServer::start().await;
    let fabric = fabric(&server);
    link_is(&fabric, |state| *state == LinkState::Up).await;
    let (mailbox, _deliveries) = reader();
    let subscription = fabric.bus().subscribe(filter("t:1"), &mailbox).await.expect("up");
    server.kill().await;
    link_is(&fabric, |state| matches!(state, LinkState::Down(_))).await;

    drop(subscription);

    let table = &fabric.bus().shared.table;
    until("the entry to go", async || {
        table.session(&filter("t:1")).map_or(Ok(()), Err)
    })
    .await;
}
