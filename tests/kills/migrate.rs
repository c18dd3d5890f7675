//! A peer is asked to move (`hub.migrate`) to a hub that dies during the move: the peer continues elsewhere, nothing is
//! lost, and nobody else is harmed.

use alkhub_test_support::{Proxy, until, within};
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::stage::{AT_ONCE, HUNG, LEASE, Stage};

/// The hubs by the name of a Service, as peers in their cluster know them: such a peer is told the pod to which it
/// should go.
const SERVICE: &str = "http://hub.team.svc";

/// A spoke that counts its messages, on the second of three hubs, with a call from a caller on each of the others.
struct Mover {
    peer: Peer,
    session: String,
    /// The hub where it began.
    hub: String,
    received: u64,
}

impl Mover {
    async fn connect(stage: &Stage, hub: usize, resume: Option<&Self>) -> Result<(Peer, Value)> {
        let mut peer = Peer::connect_by_name(&stage.hubs.address(hub), SERVICE, stage.hubs.key()).await?;
        let mut hello = json!({ "features": ["resume", "migrate"] });
        if let Some(before) = resume {
            hello["resume"] = json!({ "sessionId": before.session, "received": before.received });
        }
        peer.send("__hello", "", hello).await?;
        let answer = peer.next().await?;
        Ok((peer, answer))
    }

    async fn register(peer: &mut Peer) -> Result<()> {
        let input = json!({ "name": "m", "instanceId": "one", "operations": [operation("m", "set", "mutation")] });
        let payload = json!({ "operationId": "hub.register", "input": input });
        peer.send("call.requested", "register", payload).await?;
        let answer = peer.next_of("call.responded").await?;
        ensure!(answer["payload"]["requestId"] == "register", "{answer}");
        Ok(())
    }

    async fn begin(stage: &Stage, hub: usize) -> Result<Self> {
        let (mut peer, welcome) = Self::connect(stage, hub, None).await?;
        let text = |field: &str| welcome["payload"][field].as_str().map(str::to_owned).context("a text");
        Self::register(&mut peer).await?;
        Ok(Self {
            peer,
            session: text("sessionId")?,
            hub: text("hubId")?,
            received: 1,
        })
    }

    /// The next call that it gets.
    async fn asked(&mut self) -> Result<Value> {
        let asked = self.counted("call.requested").await?;
        Ok(asked["payload"].clone())
    }

    /// The next message that counts, which must have this type.
    async fn counted(&mut self, kind: &str) -> Result<Value> {
        loop {
            let message = self.peer.next().await?;
            if message["type"] == "__ack" {
                continue;
            }
            self.received += 1;
            ensure!(message["type"] == kind, "{kind} was due: {message}");
            return Ok(message);
        }
    }

    /// Asks a hub for its session, as often as it is told to; `None` if the session is lost.
    async fn comes_back(self, stage: &Stage, hub: usize) -> Result<Option<Self>> {
        let before = &self;
        let (mut peer, answer) = until("the hub has the session, or knows that it is lost", || async {
            let came = Self::connect(stage, hub, Some(before)).await;
            let (peer, answer) = came.map_err(|error| format!("{error:#}"))?;
            if answer["payload"]["retryable"] == true {
                return Err(answer.to_string());
            }
            Ok((peer, answer))
        })
        .await;
        if answer["type"] == "__error" {
            ensure!(answer["payload"]["code"] == "NOT_FOUND", "{answer}");
            return Ok(None);
        }
        peer.next_of("__resume").await?;
        Ok(Some(Self { peer, ..self }))
    }

    async fn answer(peer: &mut Peer, call: &Value) -> Result<()> {
        let payload = json!({ "requestId": call["requestId"], "output": call["input"] });
        peer.send("call.responded", "", payload).await
    }
}

/// Waits for something while reading a peer's connection, which also answers its hub's pings: a silent peer would be
/// given up.
async fn while_read<T>(peer: &mut Peer, something: impl Future<Output = Result<T>>) -> Result<T> {
    let mut something = std::pin::pin!(something);
    loop {
        tokio::select! {
            done = &mut something => return done,
            message = peer.next() => {
                let message = message?;
                ensure!(message["type"] != "call.requested", "nobody calls: {message}");
            }
        }
    }
}

/// Tells the hub to give its connections away, as the operator does before it ends a hub; returns the hub to which the
/// peer is asked to move.
async fn asked_to_move(stage: &Stage, mover: &mut Mover) -> Result<usize> {
    let drain = format!("/v1/admin/hubs/{}/drain", mover.hub);
    let told = stage
        .hubs
        .http(1)
        .send("PUT", &drain, Some(&json!({ "seconds": 60 })))
        .await?;
    ensure!(told.status < 300, "{told:?}");
    let asked = mover.peer.next_of("hub.migrate").await?;
    let target = asked["payload"]["target"].as_str();
    let target = target.with_context(|| format!("no target: {asked}"))?;
    let named = [0, 2].into_iter().find(|hub| stage.hubs.url(*hub) == target);
    named.with_context(|| format!("{target} is none of the others"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_target_dies_before_it_is_there_goes_on_elsewhere_and_loses_nothing() -> Result<()> {
    let stage = Stage::linked(3).await?;
    let mut mover = Mover::begin(&stage, 1).await?;
    let bystanders = [stage.plain("b0", 0).await?, stage.plain("b2", 2).await?];
    let calls = [0, 2].map(|hub| stage.call(hub, "m.set", &format!("of-{hub}")));
    let running = [mover.asked().await?, mover.asked().await?];

    let dies = asked_to_move(&stage, &mut mover).await?;
    let lives = 2 - dies;
    // It accepts the connection, and dies before it says a word.
    stage.hubs.signal(dies, Signal::SIGSTOP).await?;
    let (there, killed) = tokio::join!(Mover::connect(&stage, dies, Some(&mover)), async {
        stage.answers(lives, &format!("b{lives}.set"), "bystander").await?;
        stage.hubs.end(dies, Signal::SIGKILL).await
    });
    killed?;
    ensure!(
        there.is_err(),
        "a killed hub answers: {:?}",
        there.map(|(_, answer)| answer)
    );
    let began = Instant::now();
    let mut mover = mover.comes_back(&stage, lives).await?.context("the session is lost")?;
    for call in &running {
        Mover::answer(&mut mover.peer, call).await?;
    }

    for (hub, call) in [0, 2].into_iter().zip(calls) {
        let told = while_read(&mut mover.peer, stage.told(call, began, LEASE + AT_ONCE)).await?;
        if hub == lives {
            told.is_answered()?;
        } else {
            ensure!(told.answer.is_none(), "a dead hub answers: {told:?}");
        }
    }
    let ends = within("the hub that the peer left ends", stage.hubs.end(1, Signal::SIGTERM));
    while_read(&mut mover.peer, ends).await?;
    let (call, asked) = (
        stage.call(lives, "m.set", "next"),
        mover.peer.next_of("call.requested").await?,
    );
    Mover::answer(&mut mover.peer, &asked["payload"]).await?;
    stage.told(call, Instant::now(), AT_ONCE).await?.is_answered()?;
    stage
        .answers(lives, &format!("b{lives}.set"), "bystander-after")
        .await?;
    ensure!(bystanders[lives / 2].lines("runs", "bystander") == 1, "it ran once");
    Ok(())
}

/// The session is lost together with the hub. The peer registers anew, and may bring the answer while the call waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_target_dies_once_it_is_there_begins_anew_and_its_callers_are_told_the_truth() -> Result<()> {
    let stage = Stage::linked(3).await?;
    let mut mover = Mover::begin(&stage, 1).await?;
    let _bystanders = [stage.plain("b0", 0).await?, stage.plain("b2", 2).await?];
    let calls = [0, 2].map(|hub| stage.call(hub, "m.set", &format!("of-{hub}")));
    let running = [mover.asked().await?, mover.asked().await?];

    let dies = asked_to_move(&stage, &mut mover).await?;
    let lives = 2 - dies;
    let mover = mover.comes_back(&stage, dies).await?.context("its target has it")?;
    let began = Instant::now();
    stage.hubs.end(dies, Signal::SIGKILL).await?;
    let lost = mover.comes_back(&stage, lives).await?;
    ensure!(lost.is_none(), "the session of a dead hub goes on");
    let (mut anew, welcome) = Mover::connect(&stage, lives, None).await?;
    ensure!(welcome["type"] == "__welcome", "{welcome}");
    Mover::register(&mut anew).await?;
    for call in &running {
        Mover::answer(&mut anew, call).await?;
    }

    for (hub, call) in [0, 2].into_iter().zip(calls) {
        let told = while_read(&mut anew, stage.told(call, began, LEASE + HUNG)).await?;
        if hub != lives {
            ensure!(told.answer.is_none(), "a dead hub answers: {told:?}");
        } else if told.is_answered().is_err() {
            told.is(502, "SPOKE_LOST", "maybe")?;
        }
    }
    let ends = within("the hub that the peer left ends", stage.hubs.end(1, Signal::SIGTERM));
    while_read(&mut anew, ends).await?;
    let call = stage.call(lives, "m.set", "next");
    let asked = anew.next_of("call.requested").await?;
    Mover::answer(&mut anew, &asked["payload"]).await?;
    stage.told(call, Instant::now(), AT_ONCE).await?.is_answered()?;
    stage.answers(lives, &format!("b{lives}.set"), "bystander").await
}

/// Outside a cluster, `alkhub offer` is not told a target: it dials the address that it has, which leads to a hub that
/// dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_that_moves_to_a_hub_that_dies_goes_on_elsewhere_and_loses_no_call() -> Result<()> {
    let stage = Stage::linked(3).await?;
    let balancer = Proxy::start(stage.hubs.address(1)).await?;
    let spoke = stage.offer("t", &format!("http://{}", balancer.address()), 1).await?;
    let calls = ["hold-1", "hold-2", "hold-3"].map(|word| stage.call(2, "t.set", word));
    spoke.runs(&["hold-1", "hold-2", "hold-3"]).await;

    let dials = balancer.record();
    balancer.lead_to(stage.hubs.address(0));
    stage.hubs.signal(0, Signal::SIGSTOP).await?;
    stage.hubs.signal(1, Signal::SIGTERM).await?;
    until("the spoke dials the hub that stands still", || async {
        let said = dials.said();
        match said.iter().any(|said| said.to_server.starts_with(b"GET ")) {
            true => Ok(()),
            false => Err(format!("{} connections", said.len())),
        }
    })
    .await;
    let began = Instant::now();
    balancer.lead_to(stage.hubs.address(2));
    stage.hubs.end(0, Signal::SIGKILL).await?;
    stage.hubs.shows(2, "\nalkhub_spokes_connected 1\n", HUNG).await;
    for word in ["hold-1", "hold-2", "hold-3"] {
        spoke.release(word)?;
    }

    for call in calls {
        stage.told(call, began, HUNG).await?.is_answered()?;
    }
    within("the hub that the spoke left ends", stage.hubs.ended(1)).await?;
    stage.answers(2, "t.set", "next").await?;
    stage.ran_as_told(&[&spoke])
}
