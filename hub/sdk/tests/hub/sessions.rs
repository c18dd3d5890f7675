//! Connections that break while the hub keeps the session: nothing is lost, and nothing happens twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_sdk::{Delivery, Failure, Operation, Spoke, Status};
use alkhub_test_support::until;
use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::stage::{SOON, Stage, answer, asked, soon, upper, within};

/// How often a handler ran for each input, and what holds it up.
#[derive(Default)]
struct Ran {
    runs: Mutex<HashMap<u32, usize>>,
    began: AtomicUsize,
}

impl Ran {
    /// An operation `text.double` that ends when it gets a permit.
    fn doubling(self: &Arc<Self>, permits: &Arc<Semaphore>) -> Operation {
        let (ran, permits) = (Arc::clone(self), Arc::clone(permits));
        Operation::mutation("text.double", move |n: u32| {
            let (ran, permits) = (Arc::clone(&ran), Arc::clone(&permits));
            async move {
                *ran.runs.lock().entry(n).or_default() += 1;
                ran.began.fetch_add(1, Ordering::SeqCst);
                permits.acquire().await.expect("open").forget();
                Ok::<_, Failure>(2 * n)
            }
        })
    }

    async fn began(&self, calls: usize) {
        until("so many handlers have begun", || async {
            match self.began.load(Ordering::SeqCst) {
                began if began >= calls => Ok(()),
                began => Err(began),
            }
        })
        .await;
    }

    /// Every one ran once.
    fn ran_once(&self) -> bool {
        self.runs.lock().values().all(|runs| *runs == 1)
    }
}

/// Waits until sessions were resumed this often.
async fn resumed(stage: &Stage, times: u32) {
    until("the sessions are resumed", || async {
        match stage.metric("alkhub_sessions_total{event=\"resumed\"}").await {
            Ok(count) if count.parse().unwrap_or(0) >= times => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

fn generation(spoke: &Spoke) -> Option<u64> {
    match &*spoke.status().borrow() {
        Status::Registered(output) => Some(output.generation),
        Status::Connecting(_) | Status::Ended(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_while_its_spokes_link_is_cut_has_one_end_and_runs_once() -> Result<()> {
    let stage = Stage::start().await?;
    let (ran, permits) = (Arc::new(Ran::default()), Arc::new(Semaphore::new(0)));
    let spoke = stage.spoke().operation(ran.doubling(&permits)).start().await?;
    let before = generation(&spoke);
    let (http, input) = (stage.http(), json!(21));

    let cut = async {
        ran.began(1).await;
        stage.break_link();
        resumed(&stage, 1).await;
        permits.add_permits(1);
    };
    let (answered, ()) = tokio::join!(http.call("text.double", &input), cut);

    assert_eq!(answered?.body["data"], 42);
    assert!(ran.ran_once());
    assert_eq!(spoke.running(), 0);
    soon("the spoke is registered", async {
        spoke
            .status()
            .wait_for(|status| matches!(status, Status::Registered(_)))
            .await
            .map(drop)
    })
    .await?;
    assert_eq!(generation(&spoke), before, "as it was before");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_while_the_link_is_cut_arrives_when_it_is_back() -> Result<()> {
    let stage = Stage::start().await?;
    let (ran, permits) = (Arc::new(Ran::default()), Arc::new(Semaphore::new(0)));
    let spoke = stage.spoke().operation(ran.doubling(&permits)).start().await?;
    let (http, input) = (stage.http(), json!(21));

    let cut = async {
        ran.began(1).await;
        stage.link.cut();
        let mut status = spoke.status();
        let lost = status.wait_for(|status| matches!(status, Status::Connecting(Some(_))));
        soon("the spoke sees it", lost).await.map(drop)?;
        permits.add_permits(1);
        until("the handler has ended", || async {
            match spoke.running() {
                0 => Ok(()),
                running => Err(running),
            }
        })
        .await;
        stage.link.heal();
        anyhow::Ok(())
    };
    let (answered, played) = tokio::join!(http.call("text.double", &input), cut);
    played?;

    assert_eq!(answered?.body["data"], 42);
    assert!(ran.ran_once());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_whose_link_is_cut_while_nothing_runs_is_not_registered_anew() -> Result<()> {
    let stage = Stage::start().await?;
    let spoke = stage.spoke().operation(Operation::query("text.upper", upper));
    let spoke = spoke.start().await?;
    let before = generation(&spoke);

    for times in 1..=3 {
        stage.break_link();
        resumed(&stage, times).await;
    }
    let answered = stage.http().call("text.upper", &json!("a")).await?;

    assert_eq!(answered.body["data"], "A");
    let mut status = spoke.status();
    soon(
        "it is back",
        status.wait_for(|status| matches!(status, Status::Registered(_))),
    )
    .await?;
    assert_eq!(generation(&spoke), before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_spoke_that_is_away_for_longer_end_as_lost_and_it_registers_again() -> Result<()> {
    let stage = Stage::with(|config| config.server.resume = Duration::from_millis(500)).await?;
    let (ran, permits) = (Arc::new(Ran::default()), Arc::new(Semaphore::new(0)));
    let spoke = stage.spoke().operation(ran.doubling(&permits)).start().await?;
    let before = generation(&spoke).context("registered")?;
    let (http, input) = (stage.http(), json!(21));

    let cut = async {
        ran.began(1).await;
        stage.link.cut();
    };
    let (answered, ()) = tokio::join!(http.call("text.double", &input), cut);
    stage.link.heal();

    let answered = answered?;
    assert_eq!(
        (&answered.body["code"], &answered.body["delivered"]),
        (&json!("SPOKE_LOST"), &json!("maybe")),
        "{answered:?}"
    );
    let mut status = spoke.status();
    let again = |status: &Status| matches!(status, Status::Registered(output) if output.generation > before);
    soon("it is registered again", status.wait_for(again)).await?;
    assert_eq!(spoke.running(), 0, "the handler has ended with its session");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_calls_streams_and_events_go_on_over_a_cut() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    let mut events = client.events("job:1").await?;
    let mut items = client.subscribe::<_, u32>("text.ticks", &json!("")).await?;
    let ticks = asked(&mut peer).await?;
    answer(&mut peer, &ticks, 1).await?;
    let first = soon("an item", items.next()).await.context("open")??;
    let call = client.call_with::<_, String>("text.wait", "a", within(SOON));
    let played = async {
        let wait = asked(&mut peer).await?;
        stage.link.cut();
        answer(&mut peer, &wait, "A").await?;
        answer(&mut peer, &ticks, 2).await?;
        stage
            .http()
            .send("POST", "/v1/events/job/1", Some(&json!("while it was cut")))
            .await?;
        stage.link.heal();
        anyhow::Ok(())
    };

    let (answered, played) = tokio::join!(call, played);
    played?;

    assert_eq!(answered?, "A");
    let second = soon("an item", items.next()).await.context("open")??;
    assert_eq!((first, second), (1, 2));
    let event = soon("the event", events.next()).await.context("open")??;
    let Delivery::Event(event) = event else {
        panic!("a gap: {event:?}")
    };
    assert_eq!(event.payload::<Value>()?, json!("while it was cut"));
    Ok(())
}

/// Both legs go over the link, which breaks all the time.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_calls_over_a_link_that_breaks_each_is_answered_and_runs_once() -> Result<()> {
    const CALLS: u32 = 300;
    let stage = Stage::start().await?;
    let (ran, permits) = (Arc::new(Ran::default()), Arc::new(Semaphore::new(CALLS as usize)));
    let _spoke = stage.spoke().operation(ran.doubling(&permits)).start().await?;
    let client = stage.client();

    let calls = futures::stream::iter(0..CALLS).map(|n| {
        let client = &client;
        async move { (n, client.call::<_, u32>("text.double", &n).await) }
    });
    let calls = calls.buffer_unordered(8).collect::<Vec<_>>();
    let breaks = async {
        // Not before the client has a session: the failure of a first connection is reported to the caller.
        for done in (1..CALLS as usize).step_by(CALLS as usize / 10) {
            ran.began(done).await;
            stage.break_link();
        }
    };
    let (answers, ()) = soon("all calls end", async { tokio::join!(calls, breaks) }).await;

    for (n, answered) in &answers {
        assert_eq!(answered.as_ref().ok(), Some(&(2 * n)), "{n}: {answered:?}");
    }
    assert_eq!(answers.len(), CALLS as usize);
    assert!(ran.ran_once());
    Ok(())
}
