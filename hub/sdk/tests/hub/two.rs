//! A spoke that holds two sessions, on different hubs: the end of one of them takes no operation away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_sdk::protocol::ApiKey;
use alkhub_sdk::{Failure, Operation, Spoke, Status};
use alkhub_test_support::{Proxy, RedisServer, until_within};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::{Result, ensure};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::load::{Load, address};
use crate::stage::{SOON, soon, upper};

/// How many spokes have a session on the hub that ends.
const SPOKES: usize = 4;

/// How many callers there are at once.
const CALLERS: usize = 6;

/// How many calls are answered before a hub ends, and again after it.
const CALLS: usize = 150;

/// A load balancer before these hubs.
pub(crate) async fn balancer(cluster: &Cluster, hubs: &[usize]) -> Result<(Proxy, String)> {
    let proxy = Proxy::start(address(cluster, hubs[0])).await?;
    proxy.spread_over(hubs.iter().map(|hub| address(cluster, *hub)));
    let url = format!("http://{}", proxy.address());
    Ok((proxy, url))
}

/// Waits until a spoke has sessions on this many hubs, all of them different.
pub(crate) async fn is_on(spoke: &Spoke, count: usize) -> Vec<String> {
    until_within("the spoke is on so many hubs", SOON, || async {
        let mut hubs = spoke.hubs();
        hubs.sort();
        hubs.dedup();
        if hubs.len() == count && spoke.hubs().len() == count {
            Ok(hubs)
        } else {
            Err(format!("{:?}, {:?}", spoke.hubs(), spoke.status().borrow().clone()))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_holds_one_session_with_one_hub_and_a_second_one_once_there_is_another() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let (proxy, url) = balancer(&cluster, &[0]).await?;
    let text = |url: &str| Spoke::builder(url).token(cluster.admin().to_owned()).name("text");
    let spoke = text(&url)
        .instance_id("i")
        .operation(Operation::query("text.upper", upper))
        .start()
        .await?;
    let one = text(&url)
        .sessions(1)
        .operation(Operation::query("text.lower", upper))
        .start()
        .await?;
    assert_eq!(spoke.hubs(), [cluster.hubs[0].hub_id().to_string()]);

    cluster.add(|_| {}).await?;
    proxy.spread_over([address(&cluster, 0), address(&cluster, 1)]);

    let on = is_on(&spoke, 2).await;
    let mut all: Vec<_> = cluster.hubs.iter().map(|hub| hub.hub_id().to_string()).collect();
    all.sort();
    assert_eq!(on, all);
    assert_eq!(one.hubs().len(), 1, "it wants one");
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_spoke_instances_known 3\n").await;
        let http = Http::new(cluster.url(hub), cluster.admin());
        let answer = http.call("text.upper", &json!("x")).await?;
        assert_eq!(answer.body["data"], "X", "{answer:?}");
        let spokes = http.send("GET", "/v1/spokes", None).await?.body["data"].clone();
        let instances = spokes[0]["instances"].as_array().cloned().unwrap_or_default();
        for id in ["i", "i#2"] {
            ensure!(instances.iter().any(|one| one["instanceId"] == id), "{id}: {spokes}");
        }
    }

    soon("the spoke ends", spoke.shutdown()).await;
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_spoke_instances_known 1\n").await;
    }
    one.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

/// `text.wait`, which tells when it has begun, and ends when it may.
pub(crate) fn waits(began: &Arc<Semaphore>, go_on: &Arc<Semaphore>) -> Operation {
    let (began, go_on) = (Arc::clone(began), Arc::clone(go_on));
    Operation::mutation("text.wait", move |n: u64| {
        let (began, go_on) = (Arc::clone(&began), Arc::clone(&go_on));
        async move {
            began.add_permits(1);
            go_on.acquire().await.expect("it stays open").forget();
            Ok::<_, Failure>(n)
        }
    })
}

/// Calls `text.wait` over two hubs in turn until this many run, and once more, which is refused.
async fn takes_at_once(
    count: u32,
    cluster: &Cluster,
    (began, go_on): (&Arc<Semaphore>, &Arc<Semaphore>),
) -> Result<()> {
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..count {
        let http = Http::new(cluster.url(usize::try_from(n % 2)?), cluster.admin());
        calls.spawn(async move { http.call("text.wait", &json!(1)).await });
    }
    soon("all run", began.acquire_many(count)).await?.forget();
    for hub in 0..2 {
        let http = Http::new(cluster.url(hub), cluster.admin());
        let refused = soon("a refusal", http.call("text.wait", &json!(2))).await?;
        ensure!(refused.body["code"] == "OVERLOADED", "{refused:?}");
    }
    go_on.add_permits(usize::try_from(count)?);
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer??.body["data"], 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_declaration_allows_an_instance_is_not_doubled_by_its_second_session() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let (_proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let key = ApiKey::from_entropy([8; 32]);
    let declaration = json!({ "uid": "u-1", "key": key.expose(), "operations": ["text.*"], "concurrency": 2 });
    let admin = Http::new(cluster.url(0), cluster.admin());
    admin.declare("text", &declaration).await?;
    let (began, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let spoke = Spoke::builder(&url)
        .token(key.expose())
        .operation(waits(&began, &go_on));
    let spoke = spoke.start().await?;
    is_on(&spoke, 2).await;
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_spoke_instances_known 2\n").await;
    }

    takes_at_once(2, &cluster, (&began, &go_on)).await?;

    spoke.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_that_a_spoke_takes_at_once_are_divided_between_its_sessions() -> Result<()> {
    let (cluster, link) = Cluster::joined_behind_a_proxy(2, true, 0).await?;
    let (_proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let (began, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let wait = waits(&began, &go_on);
    let spoke = Spoke::builder(&url)
        .token(cluster.admin())
        .name("text")
        .concurrency(3)
        .operation(wait);
    let spoke = spoke.start().await?;
    is_on(&spoke, 2).await;
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_spoke_instances_known 2\n").await;
    }
    takes_at_once(3, &cluster, (&began, &go_on)).await?;

    link.cut();
    cluster.hubs[0].kill().await;
    is_on(&spoke, 1).await;
    let http = Http::new(cluster.url(1), cluster.admin());
    let mut calls = tokio::task::JoinSet::new();
    until_within("the other session takes all calls", SOON, || {
        let http = http.clone();
        calls.spawn(async move { http.call("text.wait", &json!(2)).await });
        let running = spoke.running();
        async move { if running == 3 { Ok(()) } else { Err(running) } }
    })
    .await;
    go_on.add_permits(Semaphore::MAX_PERMITS / 2);
    spoke.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_had_to_go_where_the_other_is_leaves_when_there_is_another_hub() -> Result<()> {
    let mut cluster = Cluster::joined(2, true).await?;
    let (proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let spoke = Spoke::builder(&url).token(cluster.admin()).name("text");
    let spoke = spoke.operation(Operation::query("text.upper", upper)).start().await?;
    is_on(&spoke, 2).await;

    soon("a hub drains", Box::pin(cluster.hubs[1].shutdown())).await;
    until_within("both sessions are on one hub", SOON, || async {
        let hubs = spoke.hubs();
        let left = cluster.hubs[0].hub_id().as_str();
        if hubs == [left, left] {
            Ok(())
        } else {
            Err(format!("{hubs:?}"))
        }
    })
    .await;
    let new = cluster.add(|_| {}).await?;
    proxy.spread_over([address(&cluster, 0), address(&cluster, new)]);

    is_on(&spoke, 2).await;
    spoke.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

/// Eight calls of a third hub's caller, some of which run through the hub that is killed. The parts of a hub in this
/// process die one by one, so it is first cut off from the others, to make sure that it says nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_ready_when_a_hub_dies_arrive_over_the_other_session() -> Result<()> {
    let redis = RedisServer::start().await;
    let (link, through) = redis.proxied().await?;
    let mut cluster = Cluster::empty(Some(redis)).await?;
    for hub in 0..3 {
        let change = |config: &mut HubConfig| {
            // Nobody learns that a hub is dead before the calls have had their time.
            config.events.lease_ttl = Duration::from_secs(90);
            if hub == 0 {
                config.events.redis_url = Some(through.as_str().into());
            }
        };
        cluster.add(change).await?;
    }
    cluster.know_each_other(false).await;
    let (proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let (began, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let spoke = Spoke::builder(&url).token(cluster.admin()).name("text");
    let spoke = spoke.operation(waits(&began, &go_on)).start().await?;
    is_on(&spoke, 2).await;
    cluster.shows(2, "\nalkhub_spoke_instances_known 2\n").await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..8 {
        let http = Http::new(cluster.url(2), cluster.admin());
        calls.spawn(async move { http.call("text.wait", &json!(n)).await });
    }
    soon("all run", began.acquire_many(8)).await?.forget();

    proxy.lead_to(address(&cluster, 1));
    link.cut();
    let cut_off = cluster.redis_is(0, "down", SOON).await;
    cut_off.map_err(anyhow::Error::msg)?;
    cluster.hubs[0].kill().await;
    is_on(&spoke, 1).await;
    go_on.add_permits(8);

    while let Some(answer) = calls.join_next().await {
        let answer = answer??;
        ensure!(answer.status == 200, "{answer:?}");
    }
    spoke.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

/// Calls, and those that failed although they had begun after their hub had noticed that another one was killed.
#[derive(Default)]
struct Calls {
    load: Arc<Load>,
    noticed: Mutex<Option<Instant>>,
    failed_late: Mutex<Vec<String>>,
}

// === impl Calls ===

impl Calls {
    async fn double(&self, http: &Http, n: u64) -> Result<u64> {
        let began = Instant::now();
        let answer = http.call("text.double", &json!(n)).await?;
        let doubled = answer.body["data"].as_u64();
        let is_late = self.noticed.lock().is_some_and(|at| began > at);
        if doubled.is_none() && is_late {
            self.failed_late.lock().push(format!("{n}: {answer:?}"));
        }
        doubled.ok_or_else(|| anyhow::anyhow!("{answer:?}"))
    }
}

/// Spokes that each have a session on both of the first two hubs, and are known to all.
async fn spokes_on_two(cluster: &Cluster, url: &str, load: &Arc<Load>) -> Result<Vec<Spoke>> {
    let mut spokes = Vec::new();
    for n in 0..SPOKES {
        let spoke = Spoke::builder(url).token(cluster.admin()).name("text");
        let spoke = spoke.instance_id(format!("i-{n}")).operation(load.operation());
        spokes.push(spoke.start().await?);
    }
    for spoke in &spokes {
        is_on(spoke, 2).await;
    }
    for hub in 0..cluster.hubs.len() {
        cluster
            .shows(hub, &format!("\nalkhub_spoke_instances_known {}\n", 2 * SPOKES))
            .await;
    }
    Ok(spokes)
}

/// A hub ends without a word while calls are made through another one: those that begin after that hub has noticed must
/// not fail.
async fn a_hub_is_killed_under_load(count: usize) -> Result<()> {
    let (cluster, link) = Cluster::joined_behind_a_proxy(count, true, 0).await?;
    let (proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let calls = Arc::new(Calls::default());
    let load = &calls.load;
    let spokes = spokes_on_two(&cluster, &url, load).await?;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (http, calls) = (Http::new(cluster.url(count - 1), cluster.admin()), Arc::clone(&calls));
        callers.spawn(async move { calls.load.call(|n| calls.double(&http, n)).await });
    }
    load.answered(CALLS).await;

    proxy.lead_to(address(&cluster, 1));
    link.cut();
    cluster.hubs[0].kill().await;
    let links = format!("\nalkhub_peer_links {}\n", count - 2);
    cluster.shows(count - 1, &links).await;
    *calls.noticed.lock() = Some(Instant::now());
    let before = load.answered.load(Ordering::SeqCst);

    load.answered(before + CALLS).await;
    for spoke in &spokes {
        assert_eq!(is_on(spoke, 1).await, [cluster.hubs[1].hub_id().to_string()]);
        ensure!(matches!(&*spoke.status().borrow(), Status::Registered(_)));
    }
    load.stop.store(true, Ordering::SeqCst);
    soon("the callers end", async {
        while callers.join_next().await.is_some() {}
    })
    .await;
    ensure!(
        calls.failed_late.lock().is_empty(),
        "failed: {:?}",
        calls.failed_late.lock()
    );
    // Those that ran through the hub when it ended are told so.
    for failed in load.failed.lock().iter() {
        ensure!(failed.contains("SPOKE_LOST"), "{failed}");
    }
    ensure!(load.twice().is_empty(), "ran more than once: {:?}", load.twice());
    for spoke in spokes {
        spoke.shutdown().await;
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_killed_fails_no_new_call_through_the_other() -> Result<()> {
    Box::pin(a_hub_is_killed_under_load(2)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_killed_fails_no_new_call_through_a_third_one() -> Result<()> {
    Box::pin(a_hub_is_killed_under_load(3)).await
}
