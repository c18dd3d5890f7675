//! `make bench`: the cost of alkhub, side by side with another system in one run.
//!
//! Every figure is CPU time from the kernel's accounting of the servers (`/proc/PID/stat`), divided by what they
//! delivered; the load runs in this process. Rounds of the systems are interleaved. A run that lost a delivery fails.
//! Where a lone message is measured, servers and load share one CPU: wake-ups across virtual CPUs would hide everything
//! else. Figures are comparable only within one run. Latencies are measured separately, at half of the load that the
//! system carries, or at a given rate.

mod beside;
mod calls;
mod compare;
mod fanout;
mod idle;
mod killed;
mod nats;
mod pace;
mod process;
mod report;
mod storm;
mod system;
mod timed;
mod ws;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use crate::report::Report;
use crate::system::{Kind, Servers};
use crate::timed::TIMED;

/// Measures alkhub beside nats-server and prints a table.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  bench --alkhub target/release/alkhub --nats target/tools/nats/nats-server\n  bench --rounds 1 --only calls …   one round of the cases whose name has `calls`\n  bench --before /tmp/alkhub --rounds 20 …  what a change costs, in pairs with an earlier build\n  bench --alkhub X --before X …               what the link from pod to pod saves"
)]
pub(crate) struct Args {
    /// The binary `alkhub`, built with --release.
    #[arg(long)]
    alkhub: PathBuf,
    /// The binary `nats-server`.
    #[arg(long)]
    nats: PathBuf,
    /// The binary `alkhub` of an earlier build: it is measured too, next to this one in every round.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Rounds of each case and system.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that each round measures.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Only cases whose name has this text.
    #[arg(long, default_value = "")]
    only: String,
    /// Which of the two builds, now and before, have a link from pod to pod where there are two hubs. A build that does not
    /// know the setting does not start with it.
    #[arg(long, value_enum, default_value = "now")]
    peer_link: Linked,
    /// Writes the table to this file too.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Which builds have a link from pod to pod; the others speak through Redis alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Linked {
    None,
    Now,
    Both,
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug)]
enum Case {
    /// One publisher, 1,000 WebSockets, this many events in flight.
    FanOut(usize),
    /// A request and its answer, this many in flight, on one server or across two.
    Calls { in_flight: usize, servers: usize },
    /// The same across two hubs that have only Redis between them.
    CallsOverRedis(usize),
    /// One publisher on one server, and one subscriber for each of 200 topics on the other.
    Topics,
    /// Resident memory of an idle WebSocket with one subscription.
    Idle,
}

/// What alkhub's median should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// At most this much.
    AtMost(f64),
    /// At most that of the other system in the same run.
    Other,
}

const CASES: [Case; 10] = [
    Case::FanOut(1),
    Case::FanOut(64),
    Case::Calls {
        in_flight: 1,
        servers: 1,
    },
    Case::Calls {
        in_flight: 128,
        servers: 1,
    },
    Case::Calls {
        in_flight: 1,
        servers: 2,
    },
    Case::Calls {
        in_flight: 16,
        servers: 2,
    },
    Case::Calls {
        in_flight: 128,
        servers: 2,
    },
    Case::CallsOverRedis(128),
    Case::Topics,
    Case::Idle,
];

impl Case {
    fn name(self) -> String {
        match self {
            Self::FanOut(1) => "fan-out 1 -> 1,000, one at a time (one CPU)".to_owned(),
            Self::FanOut(n) => format!("fan-out 1 -> 1,000, {n} in flight"),
            Self::Calls { in_flight, servers } => {
                let across = if servers > 1 { " across two servers" } else { "" };
                match in_flight {
                    1 => format!("calls{across}, one at a time (one CPU)"),
                    _ => format!("calls{across}, {in_flight} in flight"),
                }
            }
            Self::CallsOverRedis(n) => format!("calls across two servers, the hubs over Redis alone, {n} in flight"),
            Self::Topics => "200 topics x 1 subscriber, across two servers".to_owned(),
            Self::Idle => "memory of an idle connection".to_owned(),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::FanOut(_) | Self::Topics => "us CPU/delivery",
            Self::Calls { .. } | Self::CallsOverRedis(_) => "us CPU/call",
            Self::Idle => "KiB/connection",
        }
    }

    /// What alkhub should achieve, in the same unit.
    fn aim(self) -> Aim {
        match self {
            Self::FanOut(1) => Aim::AtMost(8.0),
            Self::FanOut(_) => Aim::AtMost(0.35),
            Self::Calls { servers: 2.., .. } => Aim::Other,
            Self::Calls { in_flight: 1, .. } => Aim::AtMost(60.0),
            Self::Calls { .. } => Aim::AtMost(7.0),
            Self::CallsOverRedis(_) | Self::Topics => Aim::AtMost(18.0),
            Self::Idle => Aim::AtMost(4.0),
        }
    }

    /// Lone messages are measured with everything on one CPU.
    fn pinned(self) -> bool {
        matches!(self, Self::FanOut(1) | Self::Calls { in_flight: 1, .. })
    }

    fn servers(self) -> usize {
        match self {
            Self::Calls { servers, .. } => servers,
            Self::CallsOverRedis(_) | Self::Topics => 2,
            Self::FanOut(_) | Self::Idle => 1,
        }
    }

    /// Whether hubs may have a link from pod to pod.
    fn may_link(self) -> bool {
        !matches!(self, Self::CallsOverRedis(_))
    }

    async fn measure(self, servers: &Servers, length: Duration) -> Result<f64> {
        match self {
            Self::FanOut(in_flight) => fanout::measure(servers, fanout::ONE_TOPIC, in_flight, length).await,
            Self::Topics => fanout::measure(servers, fanout::MANY_TOPICS, fanout::FULL_LOAD, length).await,
            Self::Calls { in_flight, .. } | Self::CallsOverRedis(in_flight) => {
                calls::measure(servers, in_flight, length).await
            }
            Self::Idle => idle::measure(servers).await,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let mut report = Report::new(&args)?;
    for case in CASES.into_iter().filter(|case| case.name().contains(&args.only)) {
        process::pin(case.pinned()).context("pinning to a CPU")?;
        let setting = (case.servers(), case.may_link());
        let figures = rounds(&args, &case.name(), setting, &async |servers, length| {
            case.measure(servers, length).await
        })?;
        report.row(&case.name(), (case.unit(), case.aim()), &figures);
    }
    process::pin(false).context("using all CPUs")?;
    for sessions in [1, 2] {
        let case = format!("memory of an idle spoke, {sessions} of two sessions");
        if case.contains(&args.only) {
            let figures = alone(&args, &case, &async |servers| {
                idle::measure_spokes(servers, sessions).await
            })?;
            report.spokes(sessions, &figures);
        }
    }
    for by_hash in [false, true] {
        let form = if by_hash { "by hash" } else { "whole" };
        let case = format!("5,000 spokes that register anew, {form}");
        if case.contains(&args.only) {
            let figures = alone(&args, &case, &async |servers| storm::measure(servers, by_hash).await)?;
            report.storms(form, &figures);
        }
    }
    let case = "5,000 spokes of a hub that is killed";
    if case.contains(&args.only) {
        let figures = alone(&args, case, &async |servers| killed::measure(servers).await)?;
        report.killed(&figures);
    }
    for case in TIMED.into_iter().filter(|case| case.name().contains(&args.only)) {
        let figures = rounds(&args, case.name(), (case.servers(), true), &async |servers, length| {
            case.measure(servers, length).await
        })?;
        report.latencies(case.name(), &figures);
    }
    report.finish(args.out.as_deref())
}

/// What the rounds of one case measured, in order for each system.
#[derive(Debug)]
pub(crate) struct Figures<T> {
    pub(crate) alkhub: Vec<T>,
    pub(crate) nats: Vec<T>,
    /// The earlier build's; empty if none is named.
    pub(crate) before: Vec<T>,
}

/// What the rounds measured of a case that only two hubs have.
fn alone<T: std::fmt::Debug>(
    args: &Args,
    case: &str,
    measure: &impl AsyncFn(&Arc<Servers>) -> Result<T>,
) -> Result<Vec<T>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let once = |round: usize| {
        let figure = runtime.block_on(async {
            let is_linked = args.peer_link != Linked::None;
            let servers = Servers::start(Kind::Alkhub, (&args.alkhub, is_linked), 2).await?;
            measure(&Arc::new(servers)).await
        });
        let figure = figure.with_context(|| format!("{case}, round {round}"))?;
        eprintln!("{case}: round {round}: {figure:.2?}");
        anyhow::Ok(figure)
    };
    (1..=args.rounds).map(once).collect()
}

fn rounds<T: std::fmt::Debug>(
    args: &Args,
    case: &str,
    (count, may_link): (usize, bool),
    measure: &impl AsyncFn(&Servers, Duration) -> Result<T>,
) -> Result<Figures<T>> {
    // Uses a runtime of its own, so that its threads inherit the pinning.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let once = |kind: Kind, (program, is_linked): (&Path, bool), round: usize| {
        let figure = runtime.block_on(async {
            let servers = Servers::start(kind, (program, is_linked), count).await?;
            measure(&servers, Duration::from_secs(args.seconds)).await
        });
        let figure = figure.with_context(|| format!("{case}, {}, round {round}", program.display()))?;
        eprintln!("{case}: {} round {round}: {figure:.2?}", program.display());
        anyhow::Ok(figure)
    };
    let (mut alkhub, mut nats, mut before) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        let now = may_link && args.peer_link != Linked::None;
        let earlier = may_link && args.peer_link == Linked::Both;
        let mut builds = vec![(&args.alkhub, now, &mut alkhub)];
        builds.extend(args.before.as_ref().map(|program| (program, earlier, &mut before)));
        // The systems take turns at going first: what a round leaves behind then affects both.
        if round % 2 == 0 {
            builds.reverse();
        }
        for (program, is_linked, figures) in builds {
            figures.push(once(Kind::Alkhub, (program, is_linked), round)?);
        }
        nats.push(once(Kind::Nats, (&args.nats, false), round)?);
    }
    Ok(Figures { alkhub, nats, before })
}
