//! Relay, leases, revoked keys and the claim on the prefix.

use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_hub_cluster::{Claim, Error, Inbound, Inbox, KeyChange, Lease, LinkState, Undelivered};
use alkhub_protocol::Delivered;
use alkhub_test_support::{Port, RedisServer, until, within};
use bytes::Bytes;
use futures::StreamExt as _;

use crate::support::{Pod, config, event, filter, large_mailbox, receive};

/// The next message of an inbox.
async fn message(what: &str, inbox: &mut Inbox) -> Bytes {
    match within(what, inbox.recv()).await {
        Some(Inbound::Message(message)) => message,
        other => panic!("{what}: {other:?}"),
    }
}

fn lease(pod: &str, connections: u64, draining: bool) -> Lease {
    Lease {
        pod: pod.to_owned(),
        version: "0.1.0".to_owned(),
        connections,
        draining,
        weight: 1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relayed_messages_arrive_in_order_and_those_for_nobody_come_back() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mut inbox_a, mut inbox_b) = (a.cluster.inbox(), b.cluster.inbox());
    let mut returned = a.cluster.undeliverable();
    let gone = "gone".parse().expect("a hub id");

    for index in 0..2_000 {
        let text = Bytes::from(index.to_string());
        a.cluster.send(&b.hub, text.clone()).expect("up");
        if index % 100 == 0 {
            b.cluster.send(&a.hub, text.clone()).expect("up");
            a.cluster.send(&gone, text).expect("up");
        }
    }

    for index in 0..2_000 {
        assert_eq!(message("a message", &mut inbox_b).await, index.to_string());
        if index % 100 == 0 {
            assert_eq!(message("an answer", &mut inbox_a).await, index.to_string());
            let Undelivered {
                hub,
                message,
                delivered,
            } = receive("a return", &mut returned).await;
            assert_eq!((&hub, &message[..]), (&gone, index.to_string().as_bytes()));
            assert_eq!(delivered, Delivered::No);
        }
    }
    assert_eq!(a.metric("alkhub_events_undeliverable_total"), 20.0);
    assert!(a.cluster.inbox().recv().await.is_none(), "an inbox is given once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_oneself_needs_no_redis() {
    let pod = Pod::start(&EventsConfig::default(), "alone");
    let mut inbox = pod.cluster.inbox();

    pod.cluster
        .send(&pod.hub, Bytes::from_static(b"x"))
        .expect("in process");
    pod.cluster
        .send(&"b".parse().expect("valid"), Bytes::from_static(b"y"))
        .expect("comes back");

    assert_eq!(message("the message", &mut inbox).await, "x");
    assert_eq!(
        receive("the return", &mut pod.cluster.undeliverable()).await.message,
        "y"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_that_nobody_reads_loses_with_a_sign_and_holds_up_no_event() {
    let server = RedisServer::start().await;
    // A busy machine shall not be taken for a link that went silent.
    let config = EventsConfig {
        probe_interval: Duration::from_secs(60),
        ..config(&server)
    };
    let (a, b) = (Pod::start(&config, "a"), Pod::start(&config, "b"));
    a.is_up().await;
    b.is_up().await;
    let mut inbox = b.cluster.inbox();
    let (mailbox, mut deliveries) = large_mailbox();
    let subscribed = b.bus.subscribe(filter("after:1"), &mailbox).await;
    let _subscribed = subscribed.expect("Redis is up");
    let mut sent = 0_u32;

    // More than its queue holds, handed over as fast as the publisher takes it.
    while sent < 20_000 {
        match a.cluster.send(&b.hub, Bytes::from(sent.to_string())) {
            Ok(()) => sent += 1,
            Err(error) => assert!(matches!(error, Error::Full), "{error}"),
        }
        tokio::task::yield_now().await;
    }
    a.publish("after:1", 7).await;

    assert_eq!(event(&mut deliveries).await, ("after:1".to_owned(), 7));
    until("all were taken from the link", || async {
        let lost = b.metric("alkhub_events_dropped_total");
        if lost == 3_616.0 { Ok(()) } else { Err(lost) }
    })
    .await;
    assert_eq!(*b.link().borrow(), LinkState::Up);
    assert_eq!(within("the sign", inbox.recv()).await, Some(Inbound::Missed));
    // What did come is whole up to where it breaks off.
    for expected in 0..16_384 {
        assert_eq!(message("a message", &mut inbox).await, expected.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_link_is_down_a_relay_fails_at_once() {
    let mut server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);

    server.kill().await;
    a.is_down().await;

    let refused = a.cluster.send(&b.hub, Bytes::from_static(b"x")).expect_err("down");
    assert!(matches!(refused, Error::Unreachable(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hub_knows_what_the_others_announce() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    a.cluster.announce(lease("pod-a", 3, false));
    b.cluster.announce(lease("pod-b", 5, true));

    for pod in [&a, &b] {
        until("both leases are known", || async {
            let pods = pod.cluster.pods();
            let known: Vec<_> = pods
                .iter()
                .map(|pod| (pod.pod.as_str(), pod.connections, pod.draining))
                .collect();
            if known == [("pod-a", 3, false), ("pod-b", 5, true)] {
                Ok(())
            } else {
                Err(format!("{known:?}"))
            }
        })
        .await;
    }
    assert_eq!(a.metric("alkhub_events_hubs"), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_hub_drains_is_known_everywhere_before_any_lease_is_renewed() {
    let server = RedisServer::start().await;
    let config = EventsConfig {
        lease_ttl: Duration::from_secs(3_600),
        lease_interval: Duration::from_secs(1_200),
        ..config(&server)
    };
    let (a, b) = (Pod::start(&config, "a"), Pod::start(&config, "b"));
    a.is_up().await;
    b.is_up().await;

    let told = b.cluster.announce_now(lease("pod-b", 5, true)).await;

    told.expect("Redis is up");
    for pod in [&a, &b] {
        until("the hub is known to drain", || async {
            let draining: Vec<String> = pod.cluster.draining().iter().map(ToString::to_string).collect();
            if draining == ["b"] {
                Ok(())
            } else {
                Err(format!("{draining:?}"))
            }
        })
        .await;
    }
    b.stop().await;
    until("a hub that is gone is forgotten", || async {
        let draining = a.cluster.draining().len();
        if draining == 0 { Ok(()) } else { Err(draining) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_told_to_every_hub_and_a_lost_link_brings_a_recheck() {
    let mut server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mut news_a, mut news_b) = (a.cluster.key_changes(), b.cluster.key_changes());
    assert_eq!(receive("the first recheck", &mut news_a).await, KeyChange::Recheck);
    assert_eq!(receive("the first recheck", &mut news_b).await, KeyChange::Recheck);
    let revoked = |key: &str| KeyChange::Revoked(vec![key.to_owned()]);

    a.cluster.announce_key_change(revoked("k1")).await;
    assert_eq!(receive("its own news", &mut news_a).await, revoked("k1"));
    assert_eq!(receive("news of another", &mut news_b).await, revoked("k1"));

    server.kill().await;
    a.is_down().await;
    b.is_down().await;
    a.cluster.announce_key_change(revoked("k2")).await;
    assert_eq!(receive("its own news", &mut news_a).await, revoked("k2"));
    server.launch().await;
    // Whose link is back first decides the order.
    let mut news = [
        receive("news of what was missed", &mut news_b).await,
        receive("news of what was missed", &mut news_b).await,
    ];
    news.sort_by_key(|change| *change == KeyChange::Recheck);
    assert_eq!(news, [revoked("k2"), KeyChange::Recheck]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_revoked_while_too_much_waits_for_redis_is_told_when_there_is_room() {
    let server = RedisServer::start().await;
    // Redis is silent for as long as the queue takes to fill, and the link must not be given up for it.
    let patient = EventsConfig {
        timeout: Duration::from_secs(60),
        probe_interval: Duration::from_secs(60),
        ..config(&server)
    };
    let (a, b) = (Pod::start(&patient, "a"), Pod::start(&patient, "b"));
    a.is_up().await;
    b.is_up().await;
    let mut news = b.cluster.key_changes();
    assert_eq!(receive("the first recheck", &mut news).await, KeyChange::Recheck);
    let nobody = "nobody".parse().expect("a hub id");
    server.freeze();
    until("the queue to Redis is full", async || {
        for sent in 0.. {
            match a.cluster.send(&nobody, Bytes::new()) {
                Ok(()) => {}
                Err(Error::Full) if sent == 0 => return Ok(()),
                Err(Error::Full) => return Err("it was full a moment ago"),
                Err(error) => panic!("{error}"),
            }
        }
        Err("it never is")
    })
    .await;

    let revoked = KeyChange::Revoked(vec!["k1".to_owned()]);
    let announced = a.cluster.announce_key_change(revoked.clone());
    within("an attempt is made", announced).await;
    server.thaw();

    assert_eq!(receive("news of the other hub", &mut news).await, revoked);
    assert_eq!(a.metric("alkhub_redis_reconnects_total"), 0.0, "no recheck covered it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_belongs_to_one_hub_resource_as_long_as_a_pod_of_it_lives() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let claim = async |pod: &Pod, uid: &str| pod.cluster.claim_prefix(uid).await.expect("up");

    assert_eq!(claim(&a, "uid-1").await, Claim::Mine);
    assert_eq!(claim(&a, "uid-1").await, Claim::Mine);
    assert_eq!(claim(&b, "uid-2").await, Claim::Taken("uid-1".to_owned()));
    // The claim outlives its own time: the lease renews it.
    let server = &server;
    until("the claim was renewed", || async move {
        let renewed: i64 = server.query(&["PTTL", "alk:owner"]).await;
        let left = i64::try_from(config(server).lease_ttl.as_millis()).expect("small");
        if renewed > 0 && renewed < left - 200 {
            Ok(())
        } else {
            Err(format!("{renewed} of {left}"))
        }
    })
    .await;
    until("the claim is young again", || async move {
        let renewed: i64 = server.query(&["PTTL", "alk:owner"]).await;
        if renewed > 1_300 {
            Ok(())
        } else {
            Err(format!("{renewed}"))
        }
    })
    .await;

    a.stop().await;
    until("the claim ends", || async {
        match b.cluster.claim_prefix("uid-2").await {
            Ok(Claim::Mine) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_stops_in_good_order_whether_redis_is_there_or_not() {
    let mut server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);

    let link = a.link();
    a.stop().await;
    assert!(matches!(&*link.borrow(), LinkState::Down(reason) if reason.contains("ending")));
    let lease: Option<String> = server.query(&["GET", "alk:hub:a"]).await;
    assert_eq!(lease, None);

    server.freeze();
    let start = tokio::time::Instant::now();
    b.stop().await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    server.thaw();
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_becomes_a_replica_is_left() {
    let server = RedisServer::start().await;
    let pod = Pod::up(&server, "a").await;

    let nobody = Port::free();
    server
        .query::<()>(&["REPLICAOF", "127.0.0.1", &nobody.to_string()])
        .await;
    let mut link = pod.link();
    let down = link.wait_for(|state| matches!(state, LinkState::Down(reason) if reason.contains("read")));
    within("the link is down", down).await.expect("runs");
    server.query::<()>(&["REPLICAOF", "NO", "ONE"]).await;

    pod.is_up().await;
    until("the lease is back", || async {
        let lease: Option<String> = server.query(&["GET", "alk:hub:a"]).await;
        lease.map(drop).ok_or_else(|| "no lease".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_crosses_from_one_prefix_to_another() {
    let server = RedisServer::start().await;
    let hub = |prefix: &str| {
        let config = EventsConfig {
            prefix: prefix.parse().expect("valid"),
            ..config(&server)
        };
        Pod::start(&config, "same-name")
    };
    let mut everything = server.listener().await;
    everything.psubscribe("*").await.expect("subscribed");
    let (one, two) = (hub("alk:one:demo:"), hub("alk:two:demo:"));
    one.is_up().await;
    two.is_up().await;
    let ((mailbox_one, mut deliveries_one), (mailbox_two, mut deliveries_two)) = (large_mailbox(), large_mailbox());
    let _one = one.bus.subscribe(filter("t:*"), &mailbox_one).await.expect("up");
    let _two = two.bus.subscribe(filter("t:*"), &mailbox_two).await.expect("up");

    one.publish("t:1", 1).await;
    two.publish("t:1", 2).await;

    assert_eq!(event(&mut deliveries_one).await.1, 1);
    assert_eq!(event(&mut deliveries_two).await.1, 2);
    let mut events = Vec::new();
    let mut messages = everything.on_message();
    while events.len() < 2 {
        let message = within("a message", messages.next()).await.expect("open");
        let channel = message.get_channel_name();
        assert!(
            channel.starts_with("alk:one:demo:") || channel.starts_with("alk:two:demo:"),
            "{channel}"
        );
        if channel.contains("events:") {
            events.push(channel.to_owned());
        }
    }
    assert_eq!(events, ["alk:one:demo:events:t:1", "alk:two:demo:events:t:1"]);
    let keys: Vec<String> = server.query(&["KEYS", "*"]).await;
    assert!(
        keys.iter()
            .all(|key| key.starts_with("alk:one:demo:") || key.starts_with("alk:two:demo:")),
        "{keys:?}"
    );
    assert!(deliveries_one.try_next().is_none() && deliveries_two.try_next().is_none());
}
