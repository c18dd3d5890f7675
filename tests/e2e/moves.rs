//! Connections move while a Hub is scaled, loses a pod by eviction and is rolled out, and no caller notices. When a hub
//! is killed, only the callers notice whose calls it had. A short form of `make bench-rebalance`.

use std::collections::HashSet;
use std::time::Duration;

use alkhub_protocol::Delivered;
use alkhub_test_support::until_within;
use alkhub_tests::load::{Aim, Ended, Kind, Load, Scale, Window};
use alkhub_tests::process;
use alkhub_tests::reach::Reach;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tokio::time::Instant;

use crate::hubs::{admin_key, none_is_leaving, ready_pods};
use crate::say;
use crate::world::{DEMO, World};

/// Half of the spokes use the SDK, with two sessions each, and half are plain.
const SCALE: Scale = Scale {
    spokes: 24,
    sessions: 2,
    rate: 40.0,
    callers: 4,
};
/// The targets of calls.
const AIMS: [(Aim, &str); 3] = [
    (Aim::Sdk, "spokes with the SDK"),
    (Aim::AnyPlain, "any plain spoke"),
    (Aim::OnePlain, "one plain spoke"),
];
/// The least number of calls of each kind to be made while pods come and go on request, and after a hub was killed.
const LEAST_CALLS: usize = 100;
const LEAST_NEW_CALLS: usize = 20;
/// Everything is in its place again within this time.
const BACK: Duration = Duration::from_secs(60);
/// Second sessions come to a new pod within this time: after a few failed attempts the SDK pauses for half a minute.
const APART: Duration = Duration::from_secs(120);

/// Starts the load that the following steps disturb.
pub(crate) async fn spokes_of_both_kinds_are_called_from_here_on(world: &mut World) -> Result<()> {
    let hub = Reach::service(&world.kube, DEMO, "demo").await?;
    if !hub.is_direct() {
        say("the cluster's addresses are not routed to this machine: connections to a Service would end with one pod");
        return Ok(());
    }
    let admin = admin_key(&world.kube, DEMO, "demo").await?;
    let load = Box::pin(Load::connect(&hub.url, &admin, &SCALE)).await?;
    load.call(&hub.url, &admin, &SCALE)?;
    world.load = Some(load);
    Ok(())
}

/// A pod is evicted, as `kubectl drain` does with the pods of a node: it gives its connections away, and a new pod
/// comes. Until that is ready, the PodDisruptionBudget keeps the other one from being evicted.
pub(crate) async fn an_evicted_pod_goes_unnoticed_and_no_other_one_before_it_is_replaced(
    world: &mut World,
) -> Result<()> {
    let kube = world.kube.clone();
    let budget = (DEMO, &["poddisruptionbudget", "demo"][..]);
    kube.wait("the budget allows an eviction", budget, BACK, |budget| {
        let status = &budget["status"];
        (status["currentHealthy"] == 2 && status["disruptionsAllowed"] == 1).then_some(())
    })
    .await;
    let pods = ready_pods(&kube, DEMO, "demo").await?;
    let [evicted, other] = &pods[..] else {
        bail!("two pods are wanted, there are {pods:?}");
    };

    kube.evict(DEMO, evicted).await?;
    let refused = kube.evict(DEMO, other).await;

    let refused = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(
        refused.contains("disruption budget"),
        "{other} was evicted too: {refused}"
    );
    until_within("another pod has come", Duration::from_secs(120), || async {
        let pods = ready_pods(&kube, DEMO, "demo").await;
        let pods = pods.map_err(|error| format!("{error:#}"))?;
        if pods.len() == 2 && pods.contains(other) && !pods.contains(evicted) {
            Ok(())
        } else {
            Err(format!("{pods:?}, evicted {evicted}"))
        }
    })
    .await;
    none_is_leaving(&kube).await;
    crate::spokes::back_when_let_go(world).await?;
    let Some(load) = &world.load else {
        say("nothing was called, see above");
        return Ok(());
    };
    load.all_connected(BACK).await?;
    load.calls_until_now_end().await?;
    unnoticed(&load.tally.take())
}

/// The process in a pod is killed (SIGKILL) and restarted: no spoke with two sessions loses a call that is made from
/// then on, and a caller that loses a call is told why.
pub(crate) async fn a_killed_hub_costs_spokes_with_two_sessions_no_new_call(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let Some(load) = &world.load else {
        say("nothing was called, see above");
        return Ok(());
    };
    load.all_on_two_hubs(APART).await?;
    let pod = ready_pods(&kube, DEMO, "demo").await?.remove(0);
    let found = kube.get(DEMO, &["pod", &pod]).await?;
    let uid = found["metadata"]["uid"].as_str().context("a uid")?;
    let restarts = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    let before = restarts(&found);

    process::kill(uid, process::HUB).await?;
    let began = Instant::now();

    kube.wait("its container runs again", (DEMO, &["pod", &pod]), BACK, |pod| {
        let is_ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        (restarts(pod) > before && is_ready).then_some(())
    })
    .await;
    load.all_connected(BACK).await?;
    load.all_on_two_hubs(APART).await?;
    load.calls_until_now_end().await?;
    let seen = load.tally.take();
    crate::spokes::back_when_lost(world).await?;
    for (aim, what) in AIMS {
        let failed: Vec<_> = seen.failed(aim).collect();
        let new = |ended: &&Ended| ended.aim == aim && ended.due >= began;
        let calls = seen.ended.iter().filter(new).count();
        say(&format!(
            "{calls} new calls to {what}; {} failed, old and new",
            failed.len()
        ));
        ensure!(calls >= LEAST_NEW_CALLS, "no more than {calls} new calls to {what}");
        let untyped: Vec<_> = failed.iter().filter(|(_, failed)| !failed.is_trouble()).collect();
        ensure!(untyped.is_empty(), "{untyped:#?}");
        // Callers that were connected to the killed hub itself may lose what they had just sent there.
        let lost = failed.iter().filter(|(ended, failed)| new(ended) && failed.is_told());
        let lost: Vec<_> = lost.collect();
        ensure!(aim != Aim::Sdk || lost.is_empty(), "{lost:#?}");
    }
    promises_hold(&seen)
}

/// A setting is changed: every pod gives its connections to one of the new revision, and goes. More calls to plain
/// spokes that are away for a second fail than the 1 % at which a roll-out would pause by itself; yet it does not
/// pause, since the hubs let these spokes go on purpose.
pub(crate) async fn a_changed_setting_replaces_every_pod(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let before: HashSet<String> = ready_pods(&kube, DEMO, "demo").await?.into_iter().collect();
    let changed = json!({ "calls": { "default-timeout": "40s" } });
    let patch = json!({ "spec": { "config": changed } }).to_string();
    kube.kubectl(&["patch", "-n", DEMO, "hub/demo", "--type=merge", "-p", &patch])
        .await?;
    until_within("every pod is another one", Duration::from_secs(300), || async {
        let pods = ready_pods(&kube, DEMO, "demo").await;
        let pods = pods.map_err(|error| format!("{error:#}"))?;
        if pods.len() == before.len() && pods.iter().all(|pod| !before.contains(pod)) {
            Ok(())
        } else {
            Err(format!("{pods:?}, before {before:?}"))
        }
    })
    .await;
    none_is_leaving(&kube).await;
    crate::spokes::back_when_let_go(world).await
}

/// What callers and spokes saw since a hub was killed.
pub(crate) async fn no_caller_noticed_that_connections_moved(world: &mut World) -> Result<()> {
    let Some(load) = world.load.take() else {
        say("nothing was called, see above");
        return Ok(());
    };
    load.calls_end().await?;
    // One may still be on its way back.
    load.all_connected(BACK).await?;
    let seen = load.tally.take();
    let hub = Reach::service(&world.kube, DEMO, "demo").await?;
    let admin = admin_key(&world.kube, DEMO, "demo").await?;
    load.end_and_forget(&hub.url, &admin).await?;

    unnoticed(&seen)?;
    let pods = ready_pods(&world.kube, DEMO, "demo").await?;
    for kind in [Kind::Sdk, Kind::Plain] {
        let here = arrived(&seen, kind, &pods);
        ensure!(
            here == SCALE.spokes / 2,
            "{here} spokes of the kind {kind:?} came to {pods:?}"
        );
    }
    Ok(())
}

/// While pods come and go on request, the only calls that fail are those to a plain spoke without a substitute, and
/// none of those reached it.
fn unnoticed(seen: &Window) -> Result<()> {
    for (aim, what) in AIMS {
        let calls = seen.ended.iter().filter(|ended| ended.aim == aim).count();
        let failed: Vec<_> = seen.failed(aim).map(|(_, failed)| failed).collect();
        say(&format!("{calls} calls to {what}, {} failed", failed.len()));
        ensure!(calls >= LEAST_CALLS, "no more than {calls} calls to {what}");
        // A plain spoke without a substitute is away for a moment.
        let harmed = |delivered| aim != Aim::OnePlain || delivered != Delivered::No;
        ensure!(!failed.iter().any(|failed| harmed(failed.delivered)), "{failed:#?}");
    }
    promises_hold(seen)
}

/// What holds in any case.
fn promises_hold(seen: &Window) -> Result<()> {
    let broken: Vec<&Ended> = seen.ended.iter().filter(|ended| ended.breaks_a_promise()).collect();
    ensure!(
        broken.is_empty(),
        "calls ran otherwise than their callers were told: {broken:#?}"
    );
    let away: Vec<_> = seen.away.iter().filter(|away| away.kind == Kind::Sdk).collect();
    ensure!(away.is_empty(), "spokes with the SDK were away: {away:?}");
    Ok(())
}

/// How many spokes got a connection to one of these pods.
fn arrived(seen: &Window, kind: Kind, pods: &[String]) -> usize {
    let on = |hub: &str| pods.iter().any(|pod| hub.starts_with(pod.as_str()));
    let arrived = seen
        .arrivals
        .iter()
        .filter(|arrival| arrival.kind == kind && on(&arrival.hub));
    arrived.map(|arrival| arrival.spoke).collect::<HashSet<_>>().len()
}
