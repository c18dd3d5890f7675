//! Connections move while a Hub is scaled and rolled out, and no caller notices: a short form of `make bench-rebalance`.

use std::collections::HashSet;
use std::time::Duration;

use alkhub_protocol::Delivered;
use alkhub_test_support::until_within;
use alkhub_tests::load::{Aim, Ended, Kind, Load, Scale, Window};
use alkhub_tests::reach::Reach;
use anyhow::{Result, ensure};
use serde_json::json;

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
/// Calls of each kind that the steps between make at least.
const LEAST_CALLS: usize = 200;

/// Begins what the steps after it disturb.
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

/// A setting is changed: every pod gives its connections to one of the new revision, and goes. With so few calls those to plain
/// spokes that are away for a second are more than the 1 % at which a roll-out pauses by itself.
pub(crate) async fn a_changed_setting_replaces_every_pod(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let before: HashSet<String> = ready_pods(&kube, DEMO, "demo").await?.into_iter().collect();
    let changed = json!({ "calls": { "default-timeout": "40s" } });
    let patch = json!({ "spec": { "config": changed, "rollout": { "pauseOnFailure": false } } }).to_string();
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

/// What callers and spokes saw since the load began.
pub(crate) async fn no_caller_noticed_that_connections_moved(world: &mut World) -> Result<()> {
    let Some(load) = world.load.take() else {
        say("nothing was called, see above");
        return Ok(());
    };
    load.calls_end().await?;
    let seen = load.tally.take();
    let hub = Reach::service(&world.kube, DEMO, "demo").await?;
    let admin = admin_key(&world.kube, DEMO, "demo").await?;
    load.end_and_forget(&hub.url, &admin).await?;

    for (aim, what) in [
        (Aim::Sdk, "spokes with the SDK"),
        (Aim::AnyPlain, "any plain spoke"),
        (Aim::OnePlain, "one plain spoke"),
    ] {
        let calls = seen.ended.iter().filter(|ended| ended.aim == aim).count();
        let failed: Vec<_> = seen.failed(aim).map(|(_, failed)| failed).collect();
        say(&format!("{calls} calls to {what}, {} failed", failed.len()));
        ensure!(calls >= LEAST_CALLS, "no more than {calls} calls to {what}");
        // A plain spoke that nobody stands in for is away for a moment.
        let harmed = |delivered| aim != Aim::OnePlain || delivered != Delivered::No;
        ensure!(!failed.iter().any(|failed| harmed(failed.delivered)), "{failed:#?}");
    }
    let broken: Vec<&Ended> = seen.ended.iter().filter(|ended| ended.breaks_a_promise()).collect();
    ensure!(
        broken.is_empty(),
        "calls ran otherwise than their callers were told: {broken:#?}"
    );
    let away: Vec<_> = seen.away.iter().filter(|away| away.kind == Kind::Sdk).collect();
    ensure!(away.is_empty(), "spokes with the SDK were away: {away:?}");
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

/// Spokes of which a connection came to one of these pods.
fn arrived(seen: &Window, kind: Kind, pods: &[String]) -> usize {
    let on = |hub: &str| pods.iter().any(|pod| hub.starts_with(pod.as_str()));
    let arrived = seen
        .arrivals
        .iter()
        .filter(|arrival| arrival.kind == kind && on(&arrival.hub));
    arrived.map(|arrival| arrival.spoke).collect::<HashSet<_>>().len()
}
