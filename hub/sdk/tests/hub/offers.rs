//! What a spoke offers changes while it runs.

use std::sync::Arc;

use alkhub_sdk::{Error, Failure, Operation, Spoke, Status};
use alkhub_test_support::until_within;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::{Result, ensure};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::stage::{SOON, Stage, soon, upper};
use crate::two::{balancer, is_on};

async fn lower(text: String) -> Result<String, Failure> {
    Ok(text.to_lowercase())
}

/// What a hub answers to a call.
pub(crate) async fn answer(http: &Http, name: &str) -> Result<(u16, String)> {
    let answer = http.call(name, &json!("Ab")).await?;
    let told = if answer.status == 200 {
        &answer.body["data"]
    } else {
        &answer.body["code"]
    };
    Ok((answer.status, told.as_str().unwrap_or_default().to_owned()))
}

pub(crate) fn ok(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

pub(crate) fn nobody() -> (u16, String) {
    (503, "NO_PROVIDER".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_come_and_go_while_the_spoke_runs() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let (began, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (begins, goes_on) = (Arc::clone(&began), Arc::clone(&go_on));
    let wait = Operation::mutation("text.wait", move |n: u64| {
        let (began, go_on) = (Arc::clone(&begins), Arc::clone(&goes_on));
        async move {
            began.add_permits(1);
            go_on.acquire().await.expect("it stays open").forget();
            Ok::<_, Failure>(n)
        }
    });
    let spoke = stage
        .spoke()
        .operation(wait)
        .operation(Operation::query("text.upper", upper));
    let spoke = spoke.start().await?;
    let http = stage.http();
    let mut running = JoinSet::new();
    running.spawn({
        let http = http.clone();
        async move { http.call("text.wait", &json!(7)).await }
    });
    soon("it runs", began.acquire()).await?.forget();

    let remove = ["text.wait", "text.never"].map(|name| name.parse().expect("valid"));
    spoke
        .update(vec![Operation::query("text.lower", lower)], remove.into())
        .await?;

    assert_eq!(answer(&http, "text.lower").await?, ok("ab"));
    assert_eq!(answer(&http, "text.upper").await?, ok("AB"));
    assert_eq!(answer(&http, "text.wait").await?, nobody());
    go_on.add_permits(1);
    let answered = soon("the call ends", running.join_next()).await.expect("it runs")??;
    assert_eq!(answered.body["data"], 7, "it was running");
    // A different specification replaces the one that is offered.
    spoke
        .add(Operation::query("text.upper", lower).version("2.0.0"))
        .await?;
    assert_eq!(answer(&http, "text.upper").await?, ok("ab"));
    // Only the handler differs.
    let before = registered(&spoke);
    spoke
        .add(Operation::query("text.upper", upper).version("2.0.0"))
        .await?;
    assert_eq!(answer(&http, "text.upper").await?, ok("AB"));
    assert_eq!(registered(&spoke), before, "no news for the hub");
    // The session is lost: the next one is registered with what is offered now.
    stage.break_link();
    until_within("the spoke has registered anew", SOON, async || {
        match registered(&spoke) {
            (generation, names) if generation > before.0 => {
                assert_eq!(names, ["text.lower", "text.upper"]);
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(answer(&http, "text.lower").await?, ok("ab"));
    spoke.remove("text.lower").await?;
    assert_eq!(answer(&http, "text.lower").await?, nobody());
    spoke.shutdown().await;
    let ended = spoke.add(Operation::query("text.lower", lower)).await;
    assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
    Ok(())
}

/// The spoke's registration: its generation and the names.
fn registered(spoke: &Spoke) -> (u64, Vec<String>) {
    match &*spoke.status().borrow() {
        Status::Registered(output) => {
            let mut names: Vec<String> = output.operations.iter().map(|o| o.name.clone()).collect();
            names.sort();
            (output.generation, names)
        }
        Status::Connecting(_) | Status::Ended(_) => (0, Vec::new()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_hub_rejects_is_an_error_and_changes_nothing() -> Result<()> {
    let stage = Stage::start().await?;
    let (_, key) = stage
        .key(json!({ "name": "k", "spoke": "text", "scopes": ["spoke"] }))
        .await?;
    let spoke = stage
        .spoke()
        .token(key)
        .operation(Operation::query("text.upper", upper));
    let spoke = spoke.start().await?;
    let add = vec![
        Operation::query("text.lower", lower),
        Operation::query("other.lower", lower),
    ];
    let http = stage.http();

    let refused = spoke
        .update(add, vec!["text.upper".parse()?])
        .await
        .expect_err("rejected");

    let Error::Rejected(rejected) = &refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        rejected.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(),
        ["other.lower"]
    );
    assert_eq!(answer(&http, "text.upper").await?, ok("AB"));
    assert_eq!(answer(&http, "text.lower").await?.1, "OPERATION_NOT_FOUND");
    // It goes on with what it has.
    spoke.add(Operation::query("text.lower", lower)).await?;
    assert_eq!(answer(&http, "text.lower").await?, ok("ab"));
    assert_eq!(answer(&http, "text.upper").await?, ok("AB"));
    let large = Operation::query("text.large", lower).description("x".repeat(1 << 20));
    let large = spoke.add(large).await.expect_err("no message holds it");
    assert!(matches!(large, Error::TooLarge { .. }), "{large:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_changes_through_both_sessions_and_outlives_either() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let (_proxy, url) = balancer(&cluster, &[0, 1]).await?;
    let spoke = Spoke::builder(&url).token(cluster.admin()).name("text");
    let spoke = spoke.operation(Operation::query("text.upper", upper)).start().await?;
    is_on(&spoke, 2).await;
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_spoke_instances_known 2\n").await;
    }
    let https: Vec<Http> = (0..2).map(|hub| Http::new(cluster.url(hub), cluster.admin())).collect();

    for round in 0..5 {
        let (new, old) = (format!("text.new{round}"), format!("text.new{}", round - 1));
        let old = (round > 0).then(|| old.parse()).transpose()?;
        spoke
            .update(vec![Operation::query(&new, lower)], old.iter().cloned().collect())
            .await?;
        for http in &https {
            assert_eq!(answer(http, &new).await?, ok("ab"), "{new}");
            if let Some(old) = &old {
                assert_eq!(answer(http, old.as_str()).await?, nobody(), "{old}");
            }
        }
    }
    // An operation on offer changes, over one session after the other, so that at each moment somebody offers it.
    let stop = Arc::new(Semaphore::new(0));
    let mut calling = JoinSet::new();
    calling.spawn({
        let (http, stop) = (https[0].clone(), Arc::clone(&stop));
        async move {
            while stop.try_acquire().is_err() {
                let answer = http.call("text.upper", &json!("Ab")).await?;
                ensure!(answer.status == 200, "{answer:?}");
            }
            anyhow::Ok(())
        }
    });
    for version in 2..6 {
        let changed = Operation::query("text.upper", upper).version(format!("{version}.0.0"));
        spoke.add(changed).await?;
    }
    stop.add_permits(1);
    calling.join_next().await.expect("it runs")??;
    cluster.hubs[0].kill().await;
    is_on(&spoke, 1).await;
    assert_eq!(answer(&https[1], "text.new4").await?, ok("ab"));
    spoke
        .update(vec![Operation::query("text.last", lower)], vec!["text.new4".parse()?])
        .await?;
    assert_eq!(answer(&https[1], "text.last").await?, ok("ab"));
    assert_eq!(answer(&https[1], "text.new4").await?.0, 503);
    spoke.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_the_connection_is_lost_is_told_when_it_is_back() -> Result<()> {
    let stage = Stage::start().await?;
    let spoke = stage.spoke().operation(Operation::query("text.upper", upper));
    let spoke = spoke.start().await?;
    let (http, mut status) = (stage.http(), spoke.status());

    stage.link.cut();
    let lost = |status: &Status| matches!(status, Status::Connecting(_));
    soon("the spoke notices", status.wait_for(lost)).await?;
    spoke
        .update(vec![Operation::query("text.lower", lower)], vec!["text.upper".parse()?])
        .await?;
    stage.link.heal();

    until_within("the hub knows", SOON, async || {
        let told = (answer(&http, "text.lower").await, answer(&http, "text.upper").await);
        match told {
            (Ok(lower), Ok(upper)) if lower == ok("ab") && upper == nobody() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    Ok(())
}
