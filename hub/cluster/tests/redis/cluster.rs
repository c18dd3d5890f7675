//! Relay, leases, revoked keys and the reservation of the prefix.

use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_hub_cluster::{Class, Incoming, KeyChange, Lease, LinkState, NotSent, PeerEvent, PrefixReservation};
use alkhub_protocol::HubId;
use alkhub_test_support::{Port, RedisServer, comes_to, until, until_full, within};
use bytes::Bytes;
use futures::StreamExt as _;

use crate::support::{Pod, config, event, filter, large_mailbox, receive};

/// The next message of another hub.
async fn message(what: &str, incoming: &mut Incoming) -> Bytes {
    match within(what, incoming.next()).await {
        PeerEvent::Message { payload, .. } => payload,
        other => panic!("{what}: {other:?}"),
    }
}

fn incoming(pod: &Pod) -> Incoming {
    pod.cluster.incoming().expect("asked for once")
}

/// Sends a message, again and again until it is taken.
async fn send(from: &Pod, to: &Pod, class: Class, number: u32) {
    let text = number.to_string();
    while let Err(error) = from.cluster.conduits().send(&to.hub, class, &[text.as_bytes()]) {
        assert_eq!(error, NotSent::Full);
        tokio::task::yield_now().await;
    }
}

fn lease(pod: &str, connections: u64, draining: bool) -> Lease {
    Lease {
        pod: pod.to_owned(),
        version: "0.1.0".to_owned(),
        connections,
        draining,
        weight: 1,
        ..Lease::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_both_ways_and_calls_for_nobody_come_back() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mut to_a, mut to_b) = (incoming(&a), incoming(&b));
    let gone = "gone".parse().expect("a hub id");

    for index in 0..2_000 {
        send(&a, &b, Class::Item, index).await;
        if index % 100 == 0 {
            send(&b, &a, Class::Control, index).await;
        }
    }
    let sent = a.cluster.conduits().send(&gone, Class::Call, &[b"call"]);
    assert_eq!(sent, Ok(()));

    for index in 0..2_000 {
        assert_eq!(message("a message", &mut to_b).await, index.to_string());
    }
    let (mut from_b, mut returned) = (Vec::new(), Vec::new());
    let reading = async {
        for _ in 0..21 {
            match within("a message, or the return", to_a.next()).await {
                PeerEvent::Message { payload, .. } => from_b.push(payload),
                PeerEvent::Returned {
                    to,
                    payload,
                    nobody_listens,
                } => returned.push((to, payload, nobody_listens)),
                broken @ PeerEvent::Broken { .. } => panic!("{broken:?}"),
            }
        }
    };
    tokio::select! {
        () = reading => {}
        event = to_b.next() => panic!("{event:?}"),
    }
    let sent_by_b: Vec<Bytes> = (0..20).map(|n| (n * 100).to_string().into()).collect();
    assert_eq!(from_b, sent_by_b);
    assert_eq!(returned, [(gone, Bytes::from_static(b"call"), true)]);
    assert!(a.cluster.incoming().is_none(), "it is given once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_kept_no_longer() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mut to_a, mut to_b) = (incoming(&a), incoming(&b));
    send(&a, &b, Class::End, 1).await;

    assert_eq!(message("the message", &mut to_b).await, "1");

    // Nothing goes back that could carry the acknowledgement, so it comes by itself.
    let reading = async {
        tokio::select! {
            event = to_a.next() => panic!("{event:?}"),
            event = to_b.next() => panic!("{event:?}"),
        }
    };
    let settled = until("nothing waits", || async {
        match a.host.metric("alkhub_conduit_unacknowledged_bytes") {
            0.0 => Ok(()),
            bytes => Err(bytes),
        }
    });
    tokio::select! {
        () = settled => {}
        () = reading => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_nobody_can_be_reached() {
    let pod = Pod::start(&EventsConfig::default(), "alone");
    let other = "b".parse().expect("valid");

    let sent = pod.cluster.conduits().send(&other, Class::Call, &[b"x"]);

    assert_eq!(sent, Err(NotSent::Unreachable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_reads_nothing_holds_up_no_event_and_finds_everything_in_order_later() {
    let server = RedisServer::start().await;
    // A busy machine must not be mistaken for a link that has gone silent.
    let config = EventsConfig {
        probe_interval: Duration::from_secs(60),
        ..config(&server)
    };
    let (a, b) = (Pod::start(&config, "a"), Pod::start(&config, "b"));
    a.is_up().await;
    b.is_up().await;
    let (mut to_a, mut to_b) = (incoming(&a), incoming(&b));
    let (mailbox, mut deliveries) = large_mailbox();
    let subscribed = b.bus.subscribe(filter("after:1"), &mailbox).await;
    let _subscribed = subscribed.expect("Redis is up");

    // More than its inbox holds.
    for sent in 0..20_000 {
        send(&a, &b, Class::Control, sent).await;
        tokio::task::yield_now().await;
    }
    a.publish("after:1", 7).await;

    assert_eq!(event(&mut deliveries).await, ("after:1".to_owned(), 7));
    // The event takes a different path than they do.
    until("what has no room is dropped", || async {
        let dropped = b.host.metric("alkhub_events_dropped_total");
        (dropped >= 3_616.0).then_some(()).ok_or(dropped)
    })
    .await;
    assert_eq!(*b.link().borrow(), LinkState::Up);
    let reading = async {
        for expected in 0..20_000 {
            assert_eq!(message("a message", &mut to_b).await, expected.to_string());
        }
    };
    tokio::select! {
        () = reading => {}
        event = to_a.next() => panic!("{event:?}"),
    }
}

/// Messages are under way while the connections of either hub break.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_while_the_link_breaks_arrives_once_and_in_order() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mut to_a, mut to_b) = (incoming(&a), incoming(&b));
    let breaking = async {
        for kind in ["pubsub", "normal", "pubsub", "normal"] {
            let kill = ["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"];
            server.query::<i64>(&kill).await;
            a.is_up().await;
            b.is_up().await;
        }
    };
    let sending = async {
        for index in 0..4_000 {
            send(&a, &b, Class::Item, index).await;
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        for expected in 0..4_000 {
            assert_eq!(message("a message", &mut to_b).await, expected.to_string());
        }
    };

    tokio::select! {
        _ = futures::future::join3(breaking, sending, reading) => {}
        event = to_a.next() => panic!("{event:?}"),
    }
    assert_eq!(a.host.metric("alkhub_conduit_breaks_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_link_is_down_a_call_is_refused_at_once_and_an_end_is_kept_until_it_is_back() {
    let mut server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);

    server.kill().await;
    a.is_down().await;

    let send = |class| a.cluster.conduits().send(&b.hub, class, &[b"x"]);
    assert_eq!(send(Class::Call), Err(NotSent::Unreachable));
    assert_eq!(send(Class::End), Ok(()));
    assert_eq!(send(Class::Call), Err(NotSent::Unreachable), "behind what is kept too");

    server.launch().await;
    a.is_up().await;
    until("what was kept goes first, and a call after it", || async {
        send(Class::Call)
    })
    .await;
}

/// What waited is asked for again after a pause, and the link may be back before that pause is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_while_the_link_comes_back_goes_or_finds_it_away_and_never_finds_too_much_waiting() {
    let mut server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    server.kill().await;
    a.is_down().await;
    let send = |class| a.cluster.conduits().send(&b.hub, class, &[b"x"]);
    assert_eq!(send(Class::End), Ok(()), "it is kept");

    let calling = async {
        while let Err(reason) = send(Class::Call) {
            assert_eq!(reason, NotSent::Unreachable);
            tokio::task::yield_now().await;
        }
    };

    within("a call goes", async { tokio::join!(server.launch(), calling) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hub_knows_what_the_others_announce() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    a.cluster.announce(|| lease("pod-a", 3, false));
    b.cluster.announce(|| lease("pod-b", 5, true));

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
    assert_eq!(a.host.metric("alkhub_events_hubs"), 2.0);
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

    let told = b.cluster.announce_now(|| lease("pod-b", 5, true)).await;

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
    b.host.end().await;
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
    // The order depends on whose link is back first.
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
    // Redis is silent for as long as the queue takes to fill, and the link must not be given up because of that.
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
    let conduits = a.cluster.conduits();
    let hubs: Vec<HubId> = (0..32)
        .map(|n| format!("none-{n}").parse().expect("a hub id"))
        .collect();
    server.freeze();
    until_full(NotSent::Full, |sent| {
        conduits.send(&hubs[sent % hubs.len()], Class::Call, &[])
    })
    .await;

    let revoked = KeyChange::Revoked(vec!["k1".to_owned()]);
    let announced = a.cluster.announce_key_change(revoked.clone());
    within("an attempt is made", announced).await;
    server.thaw();

    assert_eq!(receive("news of the other hub", &mut news).await, revoked);
    assert_eq!(
        a.host.metric("alkhub_redis_reconnects_total"),
        0.0,
        "no recheck covered it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_belongs_to_one_hub_resource_as_long_as_a_pod_of_it_lives() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let reserve = async |pod: &Pod, uid: &str| pod.cluster.reserve_prefix(uid).await.expect("up");

    assert_eq!(reserve(&a, "uid-1").await, PrefixReservation::Mine);
    assert_eq!(reserve(&a, "uid-1").await, PrefixReservation::Mine);
    assert_eq!(reserve(&b, "uid-2").await, PrefixReservation::Taken("uid-1".to_owned()));
    // The reservation outlives its own time to live, because the lease renews it.
    let server = &server;
    until("the reservation was renewed", || async move {
        let renewed: i64 = server.query(&["PTTL", "alk:owner"]).await;
        let left = i64::try_from(config(server).lease_ttl.as_millis()).expect("small");
        if renewed > 0 && renewed < left - 200 {
            Ok(())
        } else {
            Err(format!("{renewed} of {left}"))
        }
    })
    .await;
    until("the reservation is young again", || async move {
        let renewed: i64 = server.query(&["PTTL", "alk:owner"]).await;
        if renewed > 1_300 {
            Ok(())
        } else {
            Err(format!("{renewed}"))
        }
    })
    .await;

    a.host.end().await;
    until("the reservation ends", || async {
        match b.cluster.reserve_prefix("uid-2").await {
            Ok(PrefixReservation::Mine) => Ok(()),
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
    a.host.end().await;
    assert!(matches!(&*link.borrow(), LinkState::Down(reason) if reason.contains("ending")));
    let lease: Option<String> = server.query(&["GET", "alk:hub:a"]).await;
    assert_eq!(lease, None);

    server.freeze();
    let start = tokio::time::Instant::now();
    b.host.end().await;
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
    let is_left = |state: &LinkState| matches!(state, LinkState::Down(reason) if reason.contains("read"));
    comes_to("the replica is left", &pod.link(), is_left).await;
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
