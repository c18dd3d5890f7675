//! `make bench`: what alkhub costs, side by side with a peer in one run.
//!
//! Every figure is CPU time of the servers' own accounting (`/proc/PID/stat`), divided by what they delivered; the
//! load runs in this process. Rounds of the peers are interleaved. A run that lost a delivery fails. Where a lone
//! message is measured, servers and load sit on one CPU: wake-ups across virtual CPUs would hide everything else.
//! Figures are compared only within one run. Latencies are measured apart, at half of the load that the peer carries.

mod calls;
mod compare;
mod fanout;
mod idle;
mod nats;
mod pace;
mod peer;
mod process;
mod report;
mod storm;
mod ws;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use crate::pace::Latency;
use crate::peer::{Kind, Servers};
use crate::report::Report;

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
    /// Rounds of each case and peer.
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
    /// Resident memory of an idle WebSocket with one subscription.
    Idle,
}

const CASES: [Case; 6] = [
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
        in_flight: 128,
        servers: 2,
    },
    Case::Idle,
];

impl Case {
    fn name(self) -> String {
        match self {
            Self::FanOut(1) => "fan-out 1 -> 1,000, one at a time (one CPU)".to_owned(),
            Self::FanOut(n) => format!("fan-out 1 -> 1,000, {n} in flight"),
            Self::Calls { in_flight: 1, .. } => "calls, one at a time (one CPU)".to_owned(),
            Self::Calls { in_flight, servers: 1 } => format!("calls, {in_flight} in flight"),
            Self::Calls { in_flight, .. } => format!("calls across two servers, {in_flight} in flight"),
            Self::Idle => "memory of an idle connection".to_owned(),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::FanOut(_) => "us CPU/delivery",
            Self::Calls { .. } => "us CPU/call",
            Self::Idle => "KiB/connection",
        }
    }

    /// What the design wants of alkhub at most, in the same unit (`design/events.md`, `design/calls.md`).
    fn aim(self) -> f64 {
        match self {
            Self::FanOut(1) => 8.0,
            Self::FanOut(_) => 0.35,
            Self::Calls { in_flight: 1, .. } => 60.0,
            Self::Calls { servers: 1, .. } => 20.0,
            Self::Calls { .. } => 90.0,
            Self::Idle => 4.0,
        }
    }

    /// Lone messages are measured with everything on one CPU.
    fn pinned(self) -> bool {
        matches!(self, Self::FanOut(1) | Self::Calls { in_flight: 1, .. })
    }

    fn servers(self) -> usize {
        match self {
            Self::Calls { servers, .. } => servers,
            Self::FanOut(_) | Self::Idle => 1,
        }
    }

    async fn measure(self, servers: &Servers, length: Duration) -> Result<f64> {
        match self {
            Self::FanOut(in_flight) => fanout::measure(servers, in_flight, length).await,
            Self::Calls { in_flight, .. } => calls::measure(servers, in_flight, length).await,
            Self::Idle => idle::measure(servers).await,
        }
    }
}

/// What is timed at half of the load that the peer carries.
#[derive(Clone, Copy, Debug)]
enum Timed {
    /// From the moment a request was due to its answer, on one server or across two.
    Calls { servers: usize },
    /// From the moment an event was due to each delivery.
    FanOut,
}

const TIMED: [Timed; 3] = [Timed::Calls { servers: 1 }, Timed::Calls { servers: 2 }, Timed::FanOut];

impl Timed {
    fn name(self) -> &'static str {
        match self {
            Self::Calls { servers: 1 } => "latency of calls",
            Self::Calls { .. } => "latency of calls across two servers",
            Self::FanOut => "latency of fan-out 1 -> 1,000",
        }
    }

    fn servers(self) -> usize {
        match self {
            Self::Calls { servers } => servers,
            Self::FanOut => 1,
        }
    }

    async fn measure(self, servers: &Servers, length: Duration) -> Result<Latency> {
        match self {
            Self::Calls { .. } => calls::latency(servers, length).await,
            Self::FanOut => fanout::latency(servers, length).await,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let mut report = Report::new(&args)?;
    for case in CASES.into_iter().filter(|case| case.name().contains(&args.only)) {
        process::pin(case.pinned()).context("pinning to a CPU")?;
        let figures = rounds(&args, &case.name(), case.servers(), &async |servers, length| {
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
    for case in TIMED.into_iter().filter(|case| case.name().contains(&args.only)) {
        let figures = rounds(&args, case.name(), case.servers(), &async |servers, length| {
            case.measure(servers, length).await
        })?;
        report.latencies(case.name(), &figures);
    }
    report.finish(args.out.as_deref())
}

/// What the rounds of one case measured, each peer's in order.
#[derive(Debug)]
pub(crate) struct Figures<T> {
    pub(crate) alkhub: Vec<T>,
    pub(crate) nats: Vec<T>,
    /// Of the earlier build; empty when none is named.
    pub(crate) before: Vec<T>,
}

/// What the rounds of a case measured that only two hubs have.
fn alone<T: std::fmt::Debug>(args: &Args, case: &str, measure: &impl AsyncFn(&Servers) -> Result<T>) -> Result<Vec<T>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let once = |round: usize| {
        let figure = runtime.block_on(async {
            let is_linked = args.peer_link != Linked::None;
            let servers = Servers::start(Kind::Alkhub, (&args.alkhub, is_linked), 2).await?;
            measure(&servers).await
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
    count: usize,
    measure: &impl AsyncFn(&Servers, Duration) -> Result<T>,
) -> Result<Figures<T>> {
    // A runtime of its own, so that its threads inherit the pinning.
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
        let (now, earlier) = (args.peer_link != Linked::None, args.peer_link == Linked::Both);
        let mut builds = vec![(&args.alkhub, now, &mut alkhub)];
        builds.extend(args.before.as_ref().map(|program| (program, earlier, &mut before)));
        // Who comes first takes turns: what a round leaves behind falls on both.
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
