//! Everything at once: callers, aborts, deadlines, and spokes that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_protocol::{CallRequest, Code, Frame};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fixture::{Hub, Spoke, admin, connection, decode, query, registration, request, until};

const CALLERS: u64 = 8;
const CALLS: u64 = 500;

/// A spoke that answers some calls and leaves after some time, again and again.
async fn come_and_go(hub: Arc<Hub>, seed: u64, stop: CancellationToken) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !stop.is_cancelled() {
        let mut input = registration("text", &[query("text.upper")]);
        input["concurrency"] = json!(20);
        let mut spoke = Spoke::register(&hub, &admin(), input, connection())
            .await
            .expect("registers");
        for _ in 0..random.u32(1..200) {
            let Some(item) = stop.run_until_cancelled(spoke.outgoing.next()).await else {
                return;
            };
            let Some(alkhub_calls::OutgoingItem::Message(message)) = item else {
                break;
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

async fn call_often(hub: Arc<Hub>, seed: u64, ended: Arc<AtomicUsize>) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..CALLS {
        let request = CallRequest {
            timeout: Some(Duration::from_millis(random.u64(5..200))),
            ..request("text.upper", json!(1))
        };
        let caller = admin();
        let calling = hub.calls.call(&caller, request);
        let answer = match random.u32(0..10) {
            // Some callers do not wait to the end.
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
        }
        ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_call_ends_once_and_nothing_stays_behind() {
    let hub = Arc::new(Hub::local().await);
    let (stop, ended) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let (spokes, callers) = (TaskTracker::new(), TaskTracker::new());
    let spoke_tasks: Vec<_> = (0..4)
        .map(|n| spokes.spawn(come_and_go(Arc::clone(&hub), n, stop.clone())))
        .collect();
    let call_tasks: Vec<_> = (0..CALLERS)
        .map(|n| callers.spawn(call_often(Arc::clone(&hub), 100 + n, Arc::clone(&ended))))
        .collect();

    for task in call_tasks {
        crate::fixture::within("a caller", task).await.expect("no panic");
    }
    stop.cancel();
    for task in spoke_tasks {
        crate::fixture::within("a spoke", task).await.expect("no panic");
    }

    assert_eq!(ended.load(Ordering::Relaxed) as u64, CALLERS * CALLS);
    until("nothing in flight", || match hub.calls.in_flight() {
        0 => Ok(()),
        n => Err(format!("{n} in flight")),
    })
    .await;
    assert!(hub.calls.instances().is_empty());
    assert!(hub.metric("alkhub_calls_in_flight").abs() < f64::EPSILON);
    assert!(
        (hub.metric("alkhub_calls_total") - (CALLERS * CALLS) as f64).abs() < f64::EPSILON,
        "each counted once"
    );

    // Every slot came back: an instance with twenty takes twenty.
    let mut input = registration("text", &[query("text.upper")]);
    input["concurrency"] = json!(20);
    let _spoke = Spoke::register(&hub, &admin(), input, connection())
        .await
        .expect("registers");
    let running: Vec<_> = (0..21).map(|_| hub.dispatch(request("text.upper", json!(1)))).collect();
    assert_eq!(running.iter().filter(|(ticket, _)| ticket.is_ok()).count(), 20);
}
