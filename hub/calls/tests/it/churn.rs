//! Everything at once: callers, aborts, deadlines, and spokes that come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_calls::OutgoingItem;
use alkhub_devdb::Server;
use alkhub_protocol::{CallRequest, Code, Frame};
use alkhub_test_support::{RedisServer, until, within};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fixture::{Hub, HubOptions, Spoke, admin, decode, mutation, peer, query, registration, request};

const SPOKES: u64 = 4;
const CALLERS: u64 = 8;
const CALLS: u64 = 250;

/// A spoke that answers some calls and leaves after a while, again and again; returns its last connection.
async fn come_and_go(hub: Arc<Hub>, name: String, seed: u64, stop: CancellationToken) -> Spoke {
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        let mut input = registration(&name, &[query("text.upper"), mutation("text.lower")]);
        input["concurrency"] = json!(20);
        let mut spoke = Spoke::register(&hub, &admin(), input, peer()).await.expect("registers");
        // The first spoke stays.
        let calls = if seed == 0 { u32::MAX } else { random.u32(1..200) };
        for _ in 0..calls {
            let Some(item) = stop.run_until_cancelled(spoke.outgoing.next()).await else {
                return spoke;
            };
            let Some(OutgoingItem::Message(message) | OutgoingItem::Last(message)) = item else {
                panic!("it reads what it is sent")
            };
            let Frame::Requested(call) = decode(&message) else {
                continue;
            };
            match random.u32(0..10) {
                0 => {} // Its deadline ends it.
                1 => tokio::task::yield_now().await,
                _ => spoke.respond(&call.request_id, json!(1)),
            }
        }
    }
}

/// Every fourth call names the spoke: the router prefers its own hub, so how many of the others cross is left to
/// chance.
async fn call_often(hub: Arc<Hub>, target: String, seed: u64, ended: Arc<AtomicUsize>) {
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..CALLS {
        let request = CallRequest {
            timeout: Some(Duration::from_millis(random.u64(5..100))),
            target: number.is_multiple_of(4).then(|| target.parse().expect("valid")),
            ..request(if random.bool() { "text.upper" } else { "text.lower" }, json!(1))
        };
        let caller = admin();
        let calling = hub.calls.call(&caller, request);
        let answer = match random.u32(0..10) {
            // Some callers do not wait for the end.
            0 => tokio::time::timeout(Duration::from_millis(random.u64(0..3)), calling)
                .await
                .ok(),
            _ => Some(calling.await),
        };
        if let Some(Err(error)) = answer {
            let known = [
                Code::Timeout,
                Code::SpokeLost,
                Code::NoProvider,
                Code::Overloaded,
                Code::OperationNotFound,
            ];
            assert!(known.contains(&error.code), "{error}");
            // Trying again only makes sense once a spoke is there again.
            until("a spoke to come back", || async {
                let known = hub.calls.instances();
                let is_there = known.iter().any(|(spoke, ..)| spoke.as_str() == target);
                is_there.then_some(()).ok_or_else(|| format!("{known:?}"))
            })
            .await;
        }
        ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts the ended calls by their codes.
fn count_outcomes(hub: &Hub, outcomes: &mut BTreeMap<String, u64>) {
    let families = hub.host.registry.gather();
    let calls = families
        .iter()
        .find(|f| f.name() == "alkhub_calls_total")
        .expect("a metric of this name");
    for metric in calls.get_metric() {
        let code = metric
            .get_label()
            .iter()
            .find(|label| label.name() == "code")
            .expect("labelled");
        *outcomes.entry(code.value().to_owned()).or_default() += metric.get_counter().get_value() as u64;
    }
}

/// Lets callers call and spokes come and go on all hubs, then checks what is left.
async fn churn(hubs: &[Arc<Hub>]) {
    let (stop, ended) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let tasks = TaskTracker::new();
    let hub = |n: u64| Arc::clone(&hubs[usize::try_from(n).expect("small") % hubs.len()]);
    // The spokes of one hub share a name.
    let spoke = |n: u64| format!("text-{}", n % hubs.len() as u64);
    let spokes: Vec<_> = (0..SPOKES)
        .map(|n| tasks.spawn(come_and_go(hub(n), spoke(n), n, stop.clone())))
        .collect();
    for hub in hubs {
        until("every spoke", || async {
            let seen = (
                hub.calls.operations(&admin(), None).len(),
                hub.calls.instances().len() as u64,
            );
            (seen == (2, SPOKES))
                .then_some(())
                .ok_or_else(|| format!("{seen:?} operations and instances"))
        })
        .await;
    }
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| tasks.spawn(call_often(hub(n), spoke(n + 1), 100 + n, Arc::clone(&ended))))
        .collect();

    for task in callers {
        within("a caller", task).await.expect("no panic");
    }
    stop.cancel();
    let mut last = Vec::new();
    for task in spokes {
        last.push(within("a spoke", task).await.expect("no panic"));
    }

    assert_eq!(ended.load(Ordering::Relaxed) as u64, CALLERS * CALLS);
    let mut outcomes = BTreeMap::new();
    for hub in hubs {
        idle(hub).await;
        count_outcomes(hub, &mut outcomes);
    }
    assert_eq!(
        outcomes.values().sum::<u64>(),
        CALLERS * CALLS,
        "each is counted once: {outcomes:?}"
    );
    assert!(
        outcomes["OK"] > 500 && outcomes["TIMEOUT"] > 10 && outcomes["SPOKE_LOST"] > 0,
        "{outcomes:?}"
    );
    last.truncate(1);
    every_slot_is_free(&hubs[0]).await;
    drop(last);
    for hub in hubs {
        until("no instance", async || match hub.calls.instances().len() {
            0 => Ok(()),
            n => Err(format!("{n} instances")),
        })
        .await;
    }
}

async fn idle(hub: &Hub) {
    until("nothing in flight", || async {
        let left = (hub.calls.in_flight(), hub.metric("alkhub_calls_in_flight"));
        (left == (0, 0.0)).then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .await;
}

/// The one spoke that stayed all the time accepts twenty calls, as many as it has slots.
async fn every_slot_is_free(hub: &Hub) {
    until("one instance", async || match hub.calls.instances().len() {
        1 => Ok(()),
        n => Err(format!("{n} instances")),
    })
    .await;
    let running: Vec<_> = (0..21).map(|_| hub.dispatch(request("text.upper", json!(1)))).collect();
    assert_eq!(running.iter().filter(|(ticket, _)| ticket.is_ok()).count(), 20);
    for (ticket, _) in running {
        if let Ok(ticket) = &ticket {
            ticket.caller_lost("for the test");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_call_ends_once_and_nothing_stays_behind() {
    churn(&[Arc::new(Hub::local().await)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_call_ends_once_across_hubs_too() {
    let (redis, postgres) = tokio::join!(RedisServer::start(), Server::temporary());
    let postgres = postgres.expect("Postgres is installed");
    let start = async |name| {
        let options = HubOptions {
            name,
            redis: Some(redis.url()),
            postgres: Some(postgres.url()),
            ..HubOptions::default()
        };
        Arc::new(Hub::start(options).await)
    };
    let hubs = [start("pod-a-a1").await, start("pod-b-b1").await];

    churn(&hubs).await;

    for hub in hubs {
        let crossed = hub.metric("alkhub_relay_messages_total");
        assert!(crossed > 100.0, "only {crossed} messages crossed");
        Arc::into_inner(hub).expect("the last one").stop().await;
    }
    postgres.stop().await.expect("stops");
}
