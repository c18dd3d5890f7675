//! What the access rules of Redis do to events.

use alkhub_config::EventsConfig;
use alkhub_events::SubscribeError;
use alkhub_redis::Error;
use alkhub_test_support::RedisServer;

use crate::support::{Pod, config, event, filter, gap, large_mailbox};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_access_rules_refuse_hurts_nobody_else() {
    let server = RedisServer::start().await;
    let rules = |topics: &'static str| {
        let mut words = vec![
            "ACL",
            "SETUSER",
            "hub",
            "reset",
            "on",
            ">pw",
            "~*",
            "+@all",
            "&alk:hub:*",
            "&alk:probe:*",
        ];
        words.extend(["&alk:directory:changes", "&alk:keys:changes"]);
        words.extend(topics.split(' '));
        words
    };
    server.query::<()>(&rules("&alk:events:one:* &alk:events:two:*")).await;
    let url = server.url().replace("redis://", "redis://hub:pw@");
    let pod = Pod::start(
        &EventsConfig {
            redis_url: Some(url.into()),
            ..config(&server)
        },
        "a",
    );
    pod.is_up().await;
    let (mailbox, mut deliveries) = large_mailbox();
    let bus = &pod.bus;
    let wanted = ["one:1", "two:1", "three:1", "one:2"].map(|name| bus.subscribe(filter(name), &mailbox));

    let [one, two, three, other] = futures::future::join_all(wanted).await.try_into().expect("four");
    assert!(matches!(three, Err(SubscribeError(Error::Refused(_)))), "{three:?}");
    let _kept = (one.expect("allowed"), two.expect("allowed"), other.expect("allowed"));
    assert!(bus.publish(&"three:1".parse().expect("valid"), None).await.is_err());
    pod.publish("one:1", 1).await;
    assert_eq!(event(&mut deliveries).await, ("one:1".to_owned(), 1));

    // Without the rule for `two`, Redis cuts the connection, and the link comes back with what is still allowed.
    server.query::<()>(&rules("&alk:events:one:*")).await;
    let mut gaps = vec![gap(&mut deliveries).await.0, gap(&mut deliveries).await.0];
    gaps.sort();
    assert_eq!(gaps, ["one:1", "one:2"]);
    pod.is_up().await;
    pod.publish("one:1", 2).await;
    assert_eq!(event(&mut deliveries).await, ("one:1".to_owned(), 2));
}
