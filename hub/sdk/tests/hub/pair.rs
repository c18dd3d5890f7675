//! A spoke with two sessions, as seen in its frames: what each session registers, how it ends, and where it comes back.

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use alkhub_sdk::protocol::ApiKey;
use alkhub_sdk::{Error, Operation, Spoke};
use alkhub_test_support::{RedisServer, until_within};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::frames::{Spoken, Wire};
use crate::stage::{SOON, soon, upper};
use crate::two::{balancer, is_on, waits};

/// The connections over which something was registered.
fn registering(wire: &Wire) -> Vec<Spoken> {
    let spoken = wire.spoken().into_iter();
    spoken.filter(|spoken| !spoken.asked.is_empty()).collect()
}

/// The hubs of a spoke's sessions, that of the first one first.
pub(crate) fn hubs(cluster: &Cluster, spoke: &Spoke) -> Result<[usize; 2]> {
    let place = |id: &String| cluster.hubs.iter().position(|hub| hub.hub_id().as_str() == id);
    let places: Vec<usize> = spoke.hubs().iter().filter_map(place).collect();
    places.try_into().ok().context("two sessions")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hub_allows_an_instance_is_divided_and_not_allowed_twice() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let (proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let wire = Wire::of(&proxy);
    let key = ApiKey::from_entropy([9; 32]);
    let declaration = json!({ "uid": "u-1", "key": key.expose(), "operations": ["text.*"], "concurrency": 3 });
    let admin = Http::new(cluster.url(0), cluster.admin());
    admin.declare("text", &declaration).await?;

    let spoke = Spoke::builder(&url).token(key.expose());
    let spoke = spoke.operation(Operation::query("text.upper", upper)).start().await?;
    is_on(&spoke, 2).await;

    wire.asks(3).await;
    let sessions = registering(&wire);
    let asked: Vec<Vec<_>> = sessions
        .iter()
        .map(|session| {
            session
                .asked
                .iter()
                .map(|asked| asked.input["concurrency"].as_u64())
                .collect()
        })
        .collect();
    assert_eq!(asked, [vec![None, Some(2)], vec![Some(1)]]);
    spoke.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

/// The hubs keep no session whose connection is lost, so the first one ends with its hub.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_first_session_while_the_spoke_ends_aborts_no_call_of_the_second() -> Result<()> {
    let mut cluster = Cluster::empty(Some(RedisServer::start().await)).await?;
    for _ in 0..2 {
        cluster.add(|config| config.server.resume = Duration::ZERO).await?;
    }
    cluster.know_each_other(false).await;
    let (proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let wire = Wire::of(&proxy);
    let (began, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let spoke = Spoke::builder(&url).token(cluster.admin()).name("text");
    let spoke = spoke.operation(waits(&began, &go_on)).start().await?;
    is_on(&spoke, 2).await;
    let [first, second] = hubs(&cluster, &spoke)?;
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_spoke_instances_known 2\n").await;
    }

    // Of two idle instances, a call goes to the one on its own hub.
    let (http, input) = (Http::new(cluster.url(second), cluster.admin()), json!(7));
    let ends = async {
        soon("it runs", began.acquire()).await.expect("open").forget();
        tokio::join!(spoke.shutdown(), async {
            wire.shows("both sessions are withdrawn", |spoken| {
                let withdrawn = |one: &&Spoken| one.asked.last().is_some_and(|asked| asked.offers().is_empty());
                spoken.iter().filter(withdrawn).count() == 2
            })
            .await;
            let left = async {
                assert_eq!(is_on(&spoke, 1).await, [cluster.hubs[second].hub_id().to_string()]);
                go_on.add_permits(1);
            };
            tokio::join!(Box::pin(cluster.hubs[first].shutdown()), left)
        })
    };
    let (answer, _) = soon("the spoke ends", async {
        tokio::join!(http.call("text.wait", &input), ends)
    })
    .await;

    let answer = answer?;
    ensure!(answer.status == 200 && answer.body["data"] == 7, "{answer:?}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_ends_when_another_program_takes_the_place_of_its_second_session() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let (proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let wire = Wire::of(&proxy);
    let spoke = Spoke::builder(&url)
        .token(cluster.admin())
        .name("text")
        .instance_id("i");
    let spoke = spoke.operation(Operation::query("text.upper", upper)).start().await?;
    is_on(&spoke, 2).await;
    let [_, second] = hubs(&cluster, &spoke)?;

    let mut other = Peer::connect(&cluster.url(second), cluster.admin()).await?;
    let input = json!({ "name": "text", "instanceId": "i#2", "operations": [operation("text", "other", "query")] });
    let payload = json!({ "requestId": "r", "operationId": "hub.register", "input": input });
    other.send("call.requested", "", payload).await?;
    let ended = soon("the spoke ends", spoke.ended()).await;

    assert!(matches!(ended, Err(Error::Refused { status: 4409, .. })), "{ended:?}");
    wire.shows("the first session is closed too", |spoken| {
        let is_first = |one: &&Spoken| one.asked.iter().any(|asked| asked.input["instanceId"] == "i");
        spoken.iter().filter(is_first).all(|one| one.goodbye)
    })
    .await;
    cluster.shutdown().await;
    Ok(())
}

/// Whoever accepts their connections says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_both_away_avoid_the_hub_to_which_the_other_comes_back() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let (proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let spoke = Spoke::builder(&url).token(cluster.admin()).name("text");
    let spoke = spoke.operation(Operation::query("text.upper", upper)).start().await?;
    let on = is_on(&spoke, 2).await;
    let silent = TcpListener::bind("127.0.0.1:0").await?;

    let wire = Wire::of(&proxy);
    proxy.lead_to(silent.local_addr()?.to_string());
    proxy.cut();
    proxy.heal();

    let wanted: BTreeSet<String> = on.iter().map(|hub| format!("avoid={hub}")).collect();
    let mut failed = 0;
    // Each of them twice: one may have been dialled before that session knew that the other is away too.
    until_within("each avoids the hub of the other", SOON, || {
        let asked: Vec<String> = wire.spoken().into_iter().filter_map(|spoken| spoken.query).collect();
        let often = |query: &&String| asked.iter().filter(|one| one == query).count() >= 2;
        let seen = wanted.iter().filter(often).count() == wanted.len();
        if asked.len() > failed {
            // So that they dial again.
            failed = asked.len();
            proxy.cut();
            proxy.heal();
        }
        ready(if seen { Ok(()) } else { Err(format!("{asked:?}")) })
    })
    .await;
    Ok(())
}
