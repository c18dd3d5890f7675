//! Events between hubs, and between hubs and processes of the origin.

use alkhub_events::{Item, Limits, mailbox};
use alkhub_test_support::{RedisServer, until, within};
use futures::StreamExt as _;

use crate::support::{Pod, event, filter, gap, large_mailbox, next, topic, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_right_after_a_subscribe_is_seen_in_both_directions() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mailbox, mut deliveries) = large_mailbox();

    for round in 0..100 {
        let name = format!("job.done:{round}");
        let (subscriber, publisher) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let _subscription = subscriber.bus.subscribe(filter(&name), &mailbox).await.expect("up");
        publisher.publish(&name, round).await;

        assert_eq!(event(&mut deliveries).await, (name, round));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_the_origin_sees_the_exact_bytes_and_is_heard() {
    let server = RedisServer::start().await;
    let pod = Pod::up(&server, "pod-1").await;
    let mut origin = server.listener().await;
    origin
        .subscribe("alk:events:session.status:proj_1")
        .await
        .expect("subscribed");
    let (mailbox, mut deliveries) = large_mailbox();
    let _subscription = pod
        .bus
        .subscribe(filter("session.status:proj_1"), &mailbox)
        .await
        .expect("up");

    pod.publish("session.status:proj_1", 7).await;
    let message = within("a message", origin.on_message().next()).await.expect("open");
    let sent: String = message.get_payload().expect("text");
    assert_eq!(
        sent,
        r#"{"type":"session.status","id":"proj_1","payload":7,"_alk":{"node":"pod-1","hop":0}}"#
    );
    assert_eq!(event(&mut deliveries).await.1, 7);

    let text = r#"{"type":"session.status","id":"proj_1","payload":null}"#;
    let receivers: i64 = server
        .query(&["PUBLISH", "alk:events:session.status:proj_1", text])
        .await;
    assert_eq!(receivers, 2);
    let Item::Event(heard) = next(&mut deliveries).await else {
        panic!("an event")
    };
    assert_eq!(
        heard.text(),
        text.as_bytes(),
        "and the echo of the first event was dropped"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_gets_each_event_once_however_often_it_asked() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let ((both, mut both_deliveries), (all, mut all_deliveries)) = (large_mailbox(), large_mailbox());
    let bus = &a.bus;
    let _kept = (
        bus.subscribe(filter("job.done:1"), &both).await.expect("up"),
        bus.subscribe(filter("job.done:1"), &both).await.expect("up"),
        bus.subscribe(filter("job.done:*"), &both).await.expect("up"),
        bus.subscribe(filter("job.done:*"), &all).await.expect("up"),
    );

    for (publisher, value) in [(&b, 1), (&a, 2), (&b, 3)] {
        publisher.publish("job.done:1", value).await;
        publisher.publish("job.done:2", value + 10).await;
        for deliveries in [&mut both_deliveries, &mut all_deliveries] {
            assert_eq!(event(deliveries).await, ("job.done:1".to_owned(), value));
            assert_eq!(event(deliveries).await, ("job.done:2".to_owned(), value + 10));
        }
    }
    assert!(both_deliveries.try_next().is_none() && all_deliveries.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_topic_alone_is_given_up_all_ids_of_its_type_still_come_once() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mailbox, mut deliveries) = large_mailbox();
    let bus = &a.bus;
    let _all = bus.subscribe(filter("job.done:*"), &mailbox).await.expect("up");

    for round in 0..20 {
        let one = bus.subscribe(filter("job.done:1"), &mailbox).await.expect("up");
        b.publish("job.done:1", 2 * round).await;
        drop(one);
        b.publish("job.done:1", 2 * round + 1).await;
        until("the topic leaves Redis", || async {
            let channels: Vec<String> = server.query(&["PUBSUB", "CHANNELS", "alk:events:*"]).await;
            if channels.is_empty() {
                Ok(())
            } else {
                Err(format!("{channels:?}"))
            }
        })
        .await;
    }

    for expected in 0..40 {
        assert_eq!(event(&mut deliveries).await.1, expected);
    }
    assert!(deliveries.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn glob_characters_of_a_type_match_only_themselves() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mailbox, mut deliveries) = large_mailbox();
    let _subscription = a.bus.subscribe(filter("a?b[c]:*"), &mailbox).await.expect("up");

    for name in ["axb[c]:1", "a?bc:1", "axbc:1", "a?b[c]:x*"] {
        b.publish(name, 1).await;
    }

    assert_eq!(event(&mut deliveries).await.0, "a?b[c]:x*");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_envelope_costs_a_gap_and_nothing_else() {
    let server = RedisServer::start().await;
    let pod = Pod::up(&server, "a").await;
    let ((one, mut one_deliveries), (other, mut other_deliveries)) = (large_mailbox(), large_mailbox());
    let bus = &pod.bus;
    let _one = bus.subscribe(filter("t:1"), &one).await.expect("up");
    let _other = bus.subscribe(filter("t:2"), &other).await.expect("up");

    let mismatch = r#"{"type":"t","id":"2","payload":1}"#;
    for message in ["{", "[]", mismatch, r#"{"type":"t","id":"1","payload":5}"#] {
        server.query::<i64>(&["PUBLISH", "alk:events:t:1", message]).await;
    }
    server
        .query::<i64>(&["PUBLISH", "alk:events:t:2", r#"{"type":"t","id":"2","payload":6}"#])
        .await;

    assert_eq!(event(&mut other_deliveries).await.1, 6);
    let (mut missed, mut value) = (0, None);
    while value.is_none() {
        match next(&mut one_deliveries).await {
            Item::Gap(gap) => {
                assert_eq!((gap.topic.as_str(), gap.reason.as_str()), ("t:1", "malformed"));
                missed += gap.missed.expect("known");
            }
            Item::Event(event) => value = Some(self::value(&event)),
        }
    }
    assert_eq!((missed, value), (3, Some(5)));
    assert!(other_deliveries.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_passed_too_many_bridges_goes_no_further() {
    let server = RedisServer::start().await;
    let pod = Pod::up(&server, "a").await;
    let (mailbox, mut deliveries) = large_mailbox();
    let _subscription = pod.bus.subscribe(filter("t:1"), &mailbox).await.expect("up");

    for hop in [200, 8] {
        let text = format!(r#"{{"type":"t","id":"1","payload":{hop},"_alk":{{"node":"b","hop":{hop}}}}}"#);
        server.query::<i64>(&["PUBLISH", "alk:events:t:1", &text]).await;
    }

    assert_eq!(event(&mut deliveries).await.1, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_topics_of_churn_leave_nothing_subscribed() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mailbox, mut deliveries) = large_mailbox();
    let bus = &a.bus;
    let kept = bus.subscribe(filter("churn:kept"), &mailbox).await.expect("up");

    let churn = futures::stream::iter(0..10_000).map(|index| {
        let name = if index % 10 == 0 {
            format!("churn{index}:*")
        } else {
            format!("churn:{index}")
        };
        let mailbox = &mailbox;
        async move { drop(bus.subscribe(filter(&name), mailbox).await.expect("up")) }
    });
    churn.buffer_unordered(256).collect::<Vec<()>>().await;

    until("every topic leaves Redis", || async {
        let channels: Vec<String> = server.query(&["PUBSUB", "CHANNELS", "alk:events:*"]).await;
        let patterns: i64 = server.query(&["PUBSUB", "NUMPAT"]).await;
        match (&channels[..], patterns) {
            ([only], 0) if only == "alk:events:churn:kept" => Ok(()),
            _ => Err(format!("{} channels, {patterns} patterns", channels.len())),
        }
    })
    .await;
    b.publish("churn:kept", 1).await;
    assert_eq!(event(&mut deliveries).await.1, 1);
    assert_eq!(a.host.metric("alkhub_events_subscriptions"), 1.0);
    drop(kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscribe_that_is_given_up_at_any_point_leaves_nothing() {
    let server = RedisServer::start().await;
    let pod = Pod::up(&server, "a").await;
    let (mailbox, _deliveries) = large_mailbox();

    for polls in 0..200 {
        let subscribing = pod.bus.subscribe(filter(&format!("t:{polls}")), &mailbox);
        let mut subscribing = std::pin::pin!(subscribing);
        for _ in 0..polls {
            if futures::poll!(&mut subscribing).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }

    assert_eq!(pod.host.metric("alkhub_events_subscriptions"), 0.0);
    until("every topic leaves Redis", || async {
        let channels: Vec<String> = server.query(&["PUBSUB", "CHANNELS", "alk:events:*"]).await;
        if channels.is_empty() {
            Ok(())
        } else {
            Err(format!("{channels:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_dropped_and_wanted_again_stays_subscribed() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mailbox, mut deliveries) = large_mailbox();

    for round in 0..300 {
        let subscription = a.bus.subscribe(filter("t:1"), &mailbox).await.expect("up");
        b.publish("t:1", round).await;
        assert_eq!(event(&mut deliveries).await.1, round);
        drop(subscription);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_told_what_it_lost() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let limits = Limits {
        items: 10,
        bytes: 1024 * 1024,
    };
    let (slow, mut slow_deliveries) = mailbox(limits);
    let (fast, mut fast_deliveries) = large_mailbox();
    let bus = &a.bus;
    let _slow = bus.subscribe(filter("t:1"), &slow).await.expect("up");
    let _fast = bus.subscribe(filter("t:*"), &fast).await.expect("up");

    for value in 0..100 {
        b.publish("t:1", value).await;
    }

    for value in 0..100 {
        assert_eq!(event(&mut fast_deliveries).await.1, value);
    }
    assert_eq!(
        gap(&mut slow_deliveries).await,
        ("t:1".to_owned(), "overflow".to_owned(), Some(90))
    );
    for value in 90..100 {
        assert_eq!(event(&mut slow_deliveries).await.1, value);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_process_need_no_redis() {
    let pod = Pod::start(&alkhub_config::EventsConfig::default(), "alone");
    let (mailbox, mut deliveries) = large_mailbox();
    let subscription = pod.bus.subscribe(filter("t:*"), &mailbox).await.expect("in process");

    let published = pod.bus.publish(&topic("t:1"), None).await.expect("in process");

    assert_eq!(published.local, 1);
    let Item::Event(event) = next(&mut deliveries).await else {
        panic!("an event")
    };
    assert_eq!(event.text(), r#"{"type":"t","id":"1"}"#.as_bytes());
    drop((subscription, mailbox));
    assert!(deliveries.next().await.is_none());
    pod.host.end().await;
}
