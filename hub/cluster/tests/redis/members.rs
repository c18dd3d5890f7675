//! What hubs publish about themselves each second, and the orders that they get.

use std::time::Duration;

use alkhub_hub_cluster::{DrainMark, Lease, MemberRecord, MemberRecords};
use alkhub_test_support::{RedisServer, until};

use crate::support::{Pod, config};

fn record(connections: u32) -> MemberRecord {
    MemberRecord {
        pod: "pod".to_owned(),
        revision: "3".to_owned(),
        connections,
        in_flight: 7,
        reconnecting: Some(2),
        weight: 1,
        ..MemberRecord::default()
    }
}

async fn look(pod: &Pod, own: Option<&MemberRecord>) -> MemberRecords {
    pod.cluster.exchange(own).await.expect("Redis is up")
}

/// The connections of all hubs, as one hub reads them, in the order of the hubs' ids.
async fn connections(pod: &Pod) -> Vec<u32> {
    let members = look(pod, None).await;
    members.hubs.values().map(|record| record.connections).collect()
}

#[tokio::test]
async fn each_hub_reads_what_all_hubs_publish_and_reports_it_of_their_pods() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);

    look(&b, Some(&record(5))).await;
    let seen = until("the hub sees the record of the other one", || async {
        let seen = look(&a, Some(&record(2))).await;
        if seen.hubs.len() == 2 {
            Ok(seen)
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;

    assert_eq!(seen.hubs[&b.hub], record(5));
    assert_eq!((seen.drain, seen.rebalance), (None, None));
    let reported = a.cluster.report();
    let figures = reported
        .iter()
        .map(|pod| (pod.connections, pod.in_flight, pod.reconnecting));
    assert_eq!(
        figures.collect::<Vec<_>>(),
        [(2, Some(7), Some(2)), (5, Some(7), Some(2))]
    );
}

#[tokio::test]
async fn a_hub_that_publishes_nothing_any_more_is_none_of_the_members_and_still_a_hub() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    look(&b, Some(&record(5))).await;
    let sees = |expected: &'static [u32]| {
        let a = &a;
        until("the hub sees these records", move || async move {
            match connections(a).await {
                seen if seen == expected => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })
    };
    sees(&[5]).await;

    // Its record expires by itself.
    sees(&[]).await;

    assert_eq!(a.cluster.pods().len(), 2);
    assert_eq!(a.cluster.report()[1].in_flight, None);
}

#[tokio::test]
async fn a_mark_to_drain_holds_for_its_time_or_until_it_is_taken_away() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let mark = DrainMark {
        revision: Some("4".to_owned()),
    };

    let minute = Duration::from_secs(60);
    a.cluster.mark_draining(&b.hub, &mark, minute).await.expect("marked");
    assert_eq!(look(&b, None).await.drain, Some(mark.clone()));
    assert_eq!(look(&a, None).await.drain, None, "it is the other one's");
    a.cluster.unmark_draining(&b.hub).await.expect("unmarked");
    assert_eq!(look(&b, None).await.drain, None);

    a.cluster
        .mark_draining(&b.hub, &mark, Duration::from_secs(1))
        .await
        .expect("marked");
    assert_eq!(look(&b, None).await.drain, Some(mark));
    until("the mark has lapsed", || async {
        look(&b, None)
            .await
            .drain
            .map_or(Ok(()), |mark| Err(format!("{mark:?}")))
    })
    .await;
}

#[tokio::test]
async fn an_order_to_rebalance_reaches_every_hub_with_the_time_that_is_left() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);

    let ordered = Duration::from_secs(600);
    a.cluster.order_rebalance(ordered).await.expect("ordered");

    for pod in [&a, &b] {
        let left = look(pod, None).await.rebalance.expect("an order");
        assert!(left <= ordered && left > ordered / 2, "{left:?}");
    }
}

#[tokio::test]
async fn a_hub_that_drains_no_more_is_known_as_such_by_the_others() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let announce = |draining| {
        let lease = Lease {
            pod: "b".to_owned(),
            draining,
            ..Lease::default()
        };
        b.cluster.announce_now(|| lease)
    };
    let knows = |expected: bool| {
        let (a, b) = (&a, &b);
        until("the other hub knows", move || async move {
            match a.cluster.draining().contains(&b.hub) {
                known if known == expected => Ok(()),
                known => Err(format!("draining: {known}")),
            }
        })
    };

    for _ in 0..3 {
        announce(true).await.expect("announced");
        knows(true).await;
        announce(false).await.expect("announced");
        knows(false).await;
    }
}

#[tokio::test]
async fn without_redis_there_is_nobody_to_read_of() {
    let alone = alkhub_config::EventsConfig {
        redis_url: None,
        ..config(&RedisServer::reserve())
    };
    let pod = Pod::start(&alone, "a");

    let read = pod.cluster.exchange(Some(&record(1))).await;

    assert!(matches!(read, Err(alkhub_hub_cluster::Error::Alone)), "{read:?}");
}
