//! What happens to the Hub, one event after the other; each begins when the previous one has left no trace.

use std::time::Duration;

use alkhub_tests::load::pause;
use alkhub_tests::process;
use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::figures::{Figures, own_cpu};
use crate::say;
use crate::stage::Stage;

/// A pod whose connections are at most this factor of the mean is balanced.
pub(crate) const BALANCED: f64 = 1.15;
/// The longest wait until an event has left no trace.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a roll-out of four pods may take here; the aim is less.
const ROLL_OUT: Duration = Duration::from_secs(600);
/// If nobody has moved for this long, nothing moves any more: a pod that has moved some peers rests for 20 s, and
/// watches for 10 s before it moves anybody.
const QUIET: Duration = Duration::from_secs(32);
/// How long a pod, Redis or the operator stands still.
const POD_FROZEN: Duration = Duration::from_secs(40);
const REDIS_FROZEN: Duration = Duration::from_secs(60);
const OPERATOR_FROZEN: Duration = Duration::from_secs(40);
/// How long after the beginning the operator is disturbed.
const DISTURBED_AFTER: Duration = Duration::from_secs(3);

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    /// Its name on the command line and in the tables.
    pub(crate) name: &'static str,
    /// How many pods there are before it.
    pub(crate) pods: usize,
    pub(crate) deed: Deed,
    /// What is done to the operator in the meantime.
    operator: Operator,
    /// Whether it only happens if it is asked for by name.
    asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The Hub is scaled to this many pods.
    Scale(usize),
    /// A setting is changed.
    RollOut,
    /// A node is drained of its hub pods, by eviction.
    Drain,
    /// The hub of the fullest pod is killed.
    Kill,
    /// The hub of the fullest pod stands still.
    Freeze,
    /// Redis stands still.
    FreezeRedis,
}

/// What is done to the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Left,
    Killed,
    Frozen,
    /// Replaced, as in an upgrade of its chart.
    Replaced,
}

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    /// The event began.
    pub(crate) began: Instant,
    /// The pods were as wanted again.
    pub(crate) there: Instant,
    /// Nothing moved any more.
    pub(crate) quiet: Instant,
    /// The last of the other hubs reported that the killed one is gone; `None` if none reported so, or none was killed.
    pub(crate) known: Option<Instant>,
}

const fn event(name: &'static str, pods: usize, deed: Deed, operator: Operator) -> Event {
    Event {
        name,
        pods,
        deed,
        operator,
        asked: false,
    }
}

const fn asked(name: &'static str, pods: usize, deed: Deed, operator: Operator) -> Event {
    Event {
        asked: true,
        ..event(name, pods, deed, operator)
    }
}

/// All events, in order. They would take an hour and a half; without those that have to be asked for, half of that.
pub(crate) const EVENTS: [Event; 28] = [
    event("grow", 2, Deed::Scale(4), Operator::Left),
    event("shrink", 4, Deed::Scale(3), Operator::Left),
    event("roll-out", 4, Deed::RollOut, Operator::Left),
    event("drain", 4, Deed::Drain, Operator::Left),
    event("kill", 4, Deed::Kill, Operator::Left),
    event("freeze", 4, Deed::Freeze, Operator::Left),
    event("redis", 4, Deed::FreezeRedis, Operator::Left),
    event("shrink, operator killed", 4, Deed::Scale(3), Operator::Killed),
    event("roll-out, operator killed", 4, Deed::RollOut, Operator::Killed),
    event("drain, operator killed", 4, Deed::Drain, Operator::Killed),
    event("roll-out, operator replaced", 4, Deed::RollOut, Operator::Replaced),
    event("shrink, operator frozen", 4, Deed::Scale(3), Operator::Frozen),
    event("roll-out, operator frozen", 4, Deed::RollOut, Operator::Frozen),
    event("drain, operator frozen", 4, Deed::Drain, Operator::Frozen),
    asked("grow, operator killed", 2, Deed::Scale(4), Operator::Killed),
    asked("grow, operator frozen", 2, Deed::Scale(4), Operator::Frozen),
    asked("grow, operator replaced", 2, Deed::Scale(4), Operator::Replaced),
    asked("shrink, operator replaced", 4, Deed::Scale(3), Operator::Replaced),
    asked("drain, operator replaced", 4, Deed::Drain, Operator::Replaced),
    asked("kill, operator killed", 4, Deed::Kill, Operator::Killed),
    asked("kill, operator frozen", 4, Deed::Kill, Operator::Frozen),
    asked("kill, operator replaced", 4, Deed::Kill, Operator::Replaced),
    asked("freeze, operator killed", 4, Deed::Freeze, Operator::Killed),
    asked("freeze, operator frozen", 4, Deed::Freeze, Operator::Frozen),
    asked("freeze, operator replaced", 4, Deed::Freeze, Operator::Replaced),
    asked("redis, operator killed", 4, Deed::FreezeRedis, Operator::Killed),
    asked("redis, operator frozen", 4, Deed::FreezeRedis, Operator::Frozen),
    asked("redis, operator replaced", 4, Deed::FreezeRedis, Operator::Replaced),
];

// === impl Event ===

impl Event {
    /// Whether it happens if these are asked for. A part that is the full name of an event means that event; otherwise
    /// it means every event whose name contains it.
    pub(crate) fn is_wanted(&self, parts: &[String]) -> bool {
        let named = |part: &String| match EVENTS.iter().any(|event| event.name == part) {
            true => self.name == part,
            false => self.name.contains(part.as_str()),
        };
        parts.iter().any(named) || parts.is_empty() && !self.asked
    }

    /// Whether something is done to the operator.
    pub(crate) fn disturbs_operator(&self) -> bool {
        self.operator != Operator::Left
    }

    /// How many pods there are after it.
    pub(crate) fn pods_after(&self) -> usize {
        match self.deed {
            Deed::Scale(pods) => pods,
            _ => self.pods,
        }
    }
}

/// Runs the event, and returns what was seen.
///
/// # Errors
/// The cluster did not do what it was told in the time that it had.
pub(crate) async fn run(stage: &Stage, event: &Event) -> Result<Figures> {
    prepare(stage, event.pods).await?;
    say(&format!("{} ...", event.name));
    drop(stage.load.tally.take());
    stage.pods.least_ready();
    let before = stage.pods.last().context("the pods were looked at")?;
    let (began, cpu) = (Instant::now(), own_cpu());

    let (done, ()) = tokio::join!(happen(stage, event), disturb(stage, event.operator));
    let killed = done?;

    let pods = event.pods_after();
    let limit = if event.deed == Deed::RollOut { ROLL_OUT } else { LIMIT };
    stage
        .until(&format!("{pods} pods"), limit, |stage| stage.pods.are(pods))
        .await?;
    let there = Instant::now();
    quiet(stage).await;
    let quiet = Instant::now();
    let known = match killed {
        Some(pod) => stage.known_gone(&pod, began).await,
        None => None,
    };
    let moments = Moments {
        began,
        there,
        quiet,
        known,
    };
    Ok(Figures::of(stage, event, (&before, cpu), moments))
}

/// Waits for as many pods as the event begins with, all connected and even, and nothing on its way.
async fn prepare(stage: &Stage, pods: usize) -> Result<()> {
    stage.scale(pods).await?;
    let within = Duration::from_secs(300);
    stage
        .until(&format!("{pods} pods"), within, |stage| stage.pods.are(pods))
        .await?;
    quiet(stage).await;
    Ok(())
}

/// Waits until every spoke is connected, the present pods are even, and nobody has moved for a while; if that does not
/// happen, the figures show it.
async fn quiet(stage: &Stage) {
    let end = Instant::now() + LIMIT;
    let pods: Vec<String> = stage.pods.ready().into_iter().map(|pod| pod.name).collect();
    let mut still = (Instant::now(), 0);
    while Instant::now() < end && still.0.elapsed() < QUIET {
        pause(Duration::from_millis(500)).await;
        let last = stage.pods.last();
        let even = last
            .and_then(|last| last.ratio(&pods))
            .is_some_and(|ratio| ratio <= BALANCED);
        let connected = stage.load.all_connected(Duration::ZERO).await.is_ok();
        let moves = stage.load.tally.arrivals();
        if !even || !connected || moves != still.1 {
            still = (Instant::now(), moves);
        }
    }
}

/// Carries out the event; returns the pod that was killed, if any.
async fn happen(stage: &Stage, event: &Event) -> Result<Option<String>> {
    match event.deed {
        Deed::Scale(pods) => stage.scale(pods).await?,
        Deed::RollOut => {
            let before: Vec<String> = stage.pods.now().into_iter().map(|pod| pod.name).collect();
            stage.change().await?;
            stage
                .until("the pods of before are gone", ROLL_OUT, |stage| {
                    stage.pods.now().iter().all(|pod| !before.contains(&pod.name))
                })
                .await?;
        }
        Deed::Drain => drain(stage).await?,
        Deed::Kill => {
            let fullest = stage.pods.fullest().context("a pod")?;
            process::signal(&fullest.uid, process::HUB, Signal::SIGKILL)?;
            return Ok(Some(fullest.name));
        }
        Deed::Freeze => {
            let fullest = stage.pods.fullest().context("a pod")?;
            process::signal(&fullest.uid, process::HUB, Signal::SIGSTOP)?;
            pause(POD_FROZEN).await;
            // The kubelet may have ended it in the meantime.
            drop(process::signal(&fullest.uid, process::HUB, Signal::SIGCONT));
        }
        Deed::FreezeRedis => {
            stage.redis(Signal::SIGSTOP).await?;
            pause(REDIS_FROZEN).await;
            stage.redis(Signal::SIGCONT).await?;
        }
    }
    Ok(None)
}

/// `kubectl drain` of the node with most hub pods, but only for those pods: whatever else is there stays, including
/// Redis and Postgres.
async fn drain(stage: &Stage) -> Result<()> {
    let pods = stage.pods.ready();
    let on = |node: &str| pods.iter().filter(|pod| pod.node == node).count();
    let node = pods.iter().map(|pod| pod.node.clone()).max_by_key(|node| on(node));
    let node = node.context("a node with a pod")?;
    let hubs = "--pod-selector=app.kubernetes.io/component=hub";
    let drain = [
        "drain",
        &node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        hubs,
        "--timeout=240s",
    ];
    let drained = stage.kube.kubectl(&drain).await;
    stage.kube.kubectl(&["uncordon", &node]).await?;
    drained.map(drop)
}

/// Disturbs the leading operator as specified, some seconds after the beginning.
async fn disturb(stage: &Stage, operator: Operator) {
    if operator == Operator::Left {
        return;
    }
    pause(DISTURBED_AFTER).await;
    let done = match operator {
        Operator::Left => Ok(()),
        Operator::Killed => stage.leader().and_then(|leader| leader.signal(Signal::SIGKILL)),
        Operator::Replaced => stage.replace_operator().await,
        Operator::Frozen => freeze_leader(stage).await,
    };
    if let Err(error) = done {
        say(&format!("the operator was not disturbed: {error:#}"));
    }
}

async fn freeze_leader(stage: &Stage) -> Result<()> {
    let leader = stage.leader()?;
    // From here on, once another operator leads, what this one writes counts as a second leader's.
    stage.leaders.look().await;
    leader.signal(Signal::SIGSTOP)?;
    pause(OPERATOR_FROZEN).await;
    leader.signal(Signal::SIGCONT)
}
